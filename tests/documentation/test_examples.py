"""The examples of a page, one after the other, as a reader would try them.

They run in a folder where everything that the pages name is at hand. What stands for the models is
the detector of coloured halves (``colour_graph``): it takes a second where YOLOv6-S takes minutes,
and every step of the job is the same. The files are real checkpoints of YOLOv6's format, for what
reads nothing else.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import Command as Detq
from pages import PAGES, ROOT, Block, Command, blocks, commands

import detq as package
from detq.adapters import read_model
from detq.api import own_adapters
from detq.graph.detector_graph import DetectorGraph
from detq.records import SizeHW

MEASUREMENTS = {
    "docs/performance.md": "how a figure was measured: other models and data, up to hours",
    "docs/results.md": "the same",
    "docs/devices.md": "the same, in an emulator",
    "docs/training.md": "tests/documentation/test_training.py does its first step",
}
"""Pages whose commands are only held against the command line (test_commands.py) -> why."""

NOT_RUN = {
    r"detq quickstart": "two minutes; tests/test_quickstart.py runs it",
    r"detq demo .* --web|detq demo digits_yolov6n": "serves until it is stopped; tests/demo",
    r"detq demo .*--source (0|rtsp:)": "needs a camera; tests/demo",
    r"detq .* --engine ray": "starts a cluster; tests/scale/test_predict_many.py",
    r"detq .* --data coco128$": "downloads; tests/test_known_names.py",
    r"detq eval .* --rect": "the stand-in has one shape; tests/evaluation/test_evaluator.py",
    r"detq bench \S+ --source": "the same; tests/programs/test_measure.py",
    r"detq .* --peer": "measures another program beside detq; tests/programs",
    r"detq .* --tune": "half a minute of measuring; tests/test_tuning.py",
    r"detq quantize RepVGG.* --data imagenet/": "a classifier; tests/test_classifier_commands.py",
    r"detq predict /shared/": "paths of a cluster's machines; the Slurm example is run",
    r"detq (predict|eval) digits_int8_openvino_model": "10,000 images and more (docs/scale.md)",
}
"""Commands that are not run, by a pattern -> why not, and what runs in their place."""

CODE_NOT_RUN = {
    "class Block(nn.Module)": "tests/adapters/test_own_detector.py runs it",
    "class Deployed(nn.Module)": "part of a package of the reader's own; test_own_adapters.py",
    "def open_mine(path, size_hw)": "the same",
}
"""Python examples that are only compiled, by words in them -> why."""

CHECKPOINTS = ("yolov6s.pt", "bccd_yolov6n.pt")
INT8 = ("yolov6s_int8_openvino_model", "model_int8_openvino_model")
FROM_PIXELS = "yolov6s_int8_boxes_openvino_model"
DATA = ("coco.yaml", "bccd/data.yaml", "data.yaml")
FILMS = ("film.mp4", "video.mp4")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as YOLOv6's training writes it, of the model that detq brings along."""
    from forge import write_checkpoint

    stored = read_model(ROOT / "weights/digits_yolov6n.safetensors")
    path = tmp_path_factory.mktemp("checkpoint") / "digits.pt"
    return write_checkpoint(
        path, stored.module, stored.architecture, names=list(stored.class_names)
    )


@pytest.fixture(scope="module")
def int8(colour_graph: DetectorGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What quantizing the stand-in gives, for pages that begin with it."""
    folder = tmp_path_factory.mktemp("int8")
    _write_images(folder / "images/val")
    result = package.quantize(colour_graph, data=_data(folder / "data.yaml", folder))
    result.save(folder / "model")
    return folder / "model"


@pytest.fixture
def desk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    colour_graph: DetectorGraph,
    checkpoint: Path,
    int8: Path,
) -> Path:
    """A working folder with everything in it that the pages name."""

    def stand_in(path: Path, size_hw: SizeHW | None) -> DetectorGraph | None:
        return colour_graph if path.name in CHECKPOINTS else None

    monkeypatch.setattr(own_adapters, "_registered", [stand_in])
    monkeypatch.chdir(tmp_path)
    for name in CHECKPOINTS:
        shutil.copy(checkpoint, tmp_path / name)
    for name in INT8:
        shutil.copytree(int8, tmp_path / name)
    _rename(tmp_path / INT8[0])
    _rename(package.export(int8, FROM_PIXELS, format="openvino", embed_preprocess=True))
    for name in DATA:
        _data(tmp_path / name, tmp_path)
    for folder in ("photos", "images/val"):
        _write_images(tmp_path / folder)
    shutil.copy("photos/a.png", "photo.jpg")
    (tmp_path / "photos.txt").write_text("photos/a.png\nphotos/b.png\n")
    for name in FILMS:
        _write_film(tmp_path / name)
    (tmp_path / "weights").mkdir()
    shutil.copy(ROOT / "weights/handwriting.jpg", tmp_path / "weights")
    for name, value in (("ID", "0"), ("COUNT", "1")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    return tmp_path


def _data(path: Path, images: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    splits = "".join(f"{split}: images/val\n" for split in ("train", "val", "test"))
    path.write_text(f"path: {images}\n{splits}names: [red, green, blue]\n")
    return path


def _rename(directory: Path) -> None:
    """The files of the graph are called after the model."""
    for path in directory.glob("colours.*"):
        path.rename(path.with_stem("yolov6s"))


def _write_images(folder: Path) -> None:
    """Red beside blue, green beside black, and label files as of a YOLO data set."""
    labels = folder.parents[1] / "labels" / folder.name
    for path in (folder, labels):
        path.mkdir(parents=True, exist_ok=True)
    for name, halves in (("a", (0, 2)), ("b", (1,))):
        image = np.zeros((64, 128, 3), np.uint8)
        for side, colour in enumerate(halves):
            image[:, 64 * side : 64 * side + 64, 2 - colour] = 230
        cv2.imwrite(str(folder / f"{name}.png"), image)
        rows = (f"{colour} {0.25 + side / 2} 0.5 0.5 1" for side, colour in enumerate(halves))
        (labels / f"{name}.txt").write_text("\n".join(rows))


def _write_film(path: Path) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (128, 64))
    for _ in range(12):
        writer.write(np.full((64, 128, 3), (0, 0, 230), np.uint8))
    writer.release()


def _is_run(command: Command) -> bool:
    line = " ".join(command.words)
    return command.words[0] == "detq" and not any(re.match(one, line) for one in NOT_RUN)


def _at_hand(command: Command) -> list[str]:
    """Its arguments, but the image size is the one that the stand-in takes."""
    words = [os.path.expandvars(word) for word in command.words[1:]]
    for place, word in enumerate(words):
        if word == "--imgsz":
            words[place + 1] = "32x64"
    return words


RUN = {
    page: [command for command in commands(page) if _is_run(command)]
    for page in PAGES
    if page not in MEASUREMENTS
}
CODE = [
    block for page in PAGES for block in blocks(page) if block.language in ("python", "py", "pycon")
]


@pytest.mark.parametrize("page", [page for page, run in RUN.items() if run])
def test_commands_of_a_page_do_their_work(page: str, desk: Path, detq: Detq) -> None:
    for command in RUN[page]:
        outcome = detq(*_at_hand(command))
        assert outcome.status == 0, f"{command}: {outcome.err}"


@pytest.mark.parametrize("block", CODE, ids=lambda block: f"{block.page}:{block.line}")
def test_python_example_runs(block: Block, desk: Path) -> None:
    tree = ast.parse(block.text, block.page)
    if any(words in block.text for words in CODE_NOT_RUN):
        return
    red = np.full((64, 128, 3), (0, 0, 230), np.uint8)
    names = {"detq": package, "image_bgr": red, "images_bgr": [red, red]}
    names["graph"] = package.load("yolov6s.pt")
    code = block.text.replace("imgsz=640", "imgsz=(32, 64)")  # what the stand-in takes
    exec(compile(code, block.page, "exec"), names)
    assert tree.body


def test_exceptions_are_needed() -> None:
    lines = [" ".join(command.words) for page in RUN for command in commands(page)]
    for pattern in NOT_RUN:
        assert any(re.match(pattern, line) for line in lines), pattern
    for words in CODE_NOT_RUN:
        assert any(words in block.text for block in CODE), words
    assert set(MEASUREMENTS) <= set(PAGES)


def test_most_commands_are_run() -> None:
    assert sum(map(len, RUN.values())) >= 20
