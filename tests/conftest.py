"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import openvino as ov
import pytest
import yaml
from command_line import Command, Outcome
from hypothesis import settings
from openvino import opset15 as ops

from detq.adapters import fuse_model, load_checkpoint
from detq.artifact import write_artifact
from detq.graph.convert import from_torch
from detq.graph.detector_graph import INPUT, OUTPUT, DetectorGraph
from detq.records import ModelSpec

settings.register_profile("detq", deadline=None)  # a busy machine is no failure
settings.load_profile("detq")

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the user's cache holds changes no test, and no test leaves anything there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETQ_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def cache_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nor does what another test left."""
    monkeypatch.setenv("DETQ_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and checkpoints; tests that need it skip where it is absent."""
    default = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("DETQ_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"needs the test data: {folder} is absent, set DETQ_SHARED")
    return folder.resolve()


@pytest.fixture(scope="session")
def golden_graph(shared: Path) -> Callable[[str], DetectorGraph]:
    """Name of a golden YOLOv6 -> its float detector graph, for the size of its golden images."""

    @cache
    def convert(name: str) -> DetectorGraph:
        path = shared / f"goldens/yolov6/{name}.pt"
        with np.load(path.with_suffix(".npz")) as golden:
            size_hw = golden["image"].shape[2:]
        model = fuse_model(load_checkpoint(path, size_hw=size_hw))
        return from_torch(model.module, model.spec)

    return convert


@pytest.fixture(scope="session")
def colour_graph() -> DetectorGraph:
    """A detector of coloured halves, 32x64 pixels: it can be right, and the truth is known.

    Its two boxes are the left and the right half of the input; the score of a class is how much of
    that colour the half shows.
    """
    image = ops.parameter([1, 3, 32, 64], ov.Type.f32, name=INPUT)
    identity = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    colours = ops.convolution(image, ops.constant(identity), [1, 1], [0, 0], [0, 0], [1, 1])
    colours.set_friendly_name("colours")
    halves = ops.avg_pool(colours, [32, 32], [0, 0], [0, 0], [32, 32], False)
    scores = ops.reshape(halves, np.array([1, 3, 2]), False)
    boxes = np.array([[[16, 48], [16, 16], [32, 32], [32, 32]]], np.float32)  # cx, cy, w, h
    output = ops.concat([ops.constant(boxes), scores], 1)
    model = ov.Model([ops.result(output)], [image], "colours")
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    spec = ModelSpec("colours", "test", COLOURS, strides=(32,), size_hw=(32, 64))
    return DetectorGraph(model, spec)


@pytest.fixture
def colour_images(tmp_path: Path) -> Path:
    """A YOLO data set of coloured halves in folder ``images/val``: red | blue, green | black."""
    (tmp_path / "images/val").mkdir(parents=True)
    (tmp_path / "labels/val").mkdir(parents=True)
    for name, left, right in (("a", 0, 2), ("b", 1, None)):
        image = np.zeros((64, 128, 3), np.uint8)
        lines = []
        for half, colour in enumerate((left, right)):
            if colour is not None:
                image[:, 64 * half : 64 * half + 64, 2 - colour] = 230  # BGR
                lines.append(f"{colour} {0.25 + half / 2} 0.5 0.5 1.0")
        cv2.imwrite(str(tmp_path / f"images/val/{name}.png"), image)
        (tmp_path / f"labels/val/{name}.txt").write_text("\n".join(lines))
    return tmp_path / "images/val"


@pytest.fixture(scope="session")
def colour_model(colour_graph: DetectorGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``colour_graph`` as an exported float directory."""
    directory = tmp_path_factory.mktemp("models") / "colours_openvino_model"
    write_artifact(colour_graph, directory)
    return directory


@pytest.fixture
def colour_data(colour_images: Path) -> Path:
    """The YAML of a data set whose splits ``train`` and ``val`` are both ``colour_images``."""
    path = colour_images.parents[1] / "data.yaml"
    names = ", ".join(COLOURS)
    path.write_text(f"path: .\ntrain: images/val\nval: images/val\nnames: [{names}]\n")
    return path


@pytest.fixture
def detq(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Runs the command line in this process, with ``tmp_path`` as the working directory."""
    from detq.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["detq", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return Outcome(int(stop.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def bccd_graph(shared: Path) -> DetectorGraph:
    """A YOLOv6-N for blood cells at 320x320, in float."""
    size_hw = (320, 320)
    model = fuse_model(load_checkpoint(shared / "checkpoints/bccd_yolov6n.pt", size_hw=size_hw))
    return from_torch(model.module, model.spec)


@pytest.fixture(scope="session")
def few_blood_cells(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``data.yaml`` of 16 images of each split, for what does not depend on how many."""
    folder = tmp_path_factory.mktemp("cells")
    data = shared / "data/bccd"
    for split in ("train", "val", "test"):
        images = sorted((data / "images" / split).iterdir())[:16]
        (folder / f"{split}.txt").write_text("".join(f"{image}\n" for image in images))
    document = yaml.safe_load((data / "data.yaml").read_text())
    splits = {split: f"{split}.txt" for split in ("train", "val", "test")}
    (folder / "data.yaml").write_text(yaml.safe_dump(document | splits))
    return folder / "data.yaml"


@pytest.fixture(scope="session")
def bccd_float(bccd_graph: DetectorGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bccd_graph`` as a directory, which opens faster than the checkpoint."""
    directory = tmp_path_factory.mktemp("float") / "bccd_yolov6n_openvino_model"
    write_artifact(bccd_graph, directory)
    return directory
