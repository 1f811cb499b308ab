"""Whatever is wrong with the input: one line that says so, and nothing left behind."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from command_line import Command, running

from detq.artifact import write_artifact
from detq.graph.detector_graph import DetectorGraph
from detq.records import placeholder_names

sys.path += [str(Path(__file__).parent / room) for room in ("adapters", "models")]
from forge import write_checkpoint
from small_networks import small_network


def _tree(folder: Path) -> dict[Path, bytes | None]:
    """Every path below a folder, hidden ones too, with what files hold."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def refused(detq: Command, tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must fail with one line holding the given words, and change no file."""

    def run(*arguments: str | Path, words: tuple[str, ...], status: int = 1) -> str:
        before = _tree(tmp_path)
        outcome = detq(*arguments)
        assert outcome.failed_well, outcome
        assert outcome.status == status
        for word in words:
            assert word in outcome.errors[0]
        assert _tree(tmp_path) == before
        return outcome.errors[0]

    return run


Refused = Callable[..., str]

# Models


def _absent(path: Path) -> None:
    assert not path.exists()


def _text(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


class _Command:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


def _malicious(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", pickle.dumps({"model": _Command()}, 2))


def _truncated(path: Path) -> None:
    torch.save({"ema": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:3000])


def _incomplete(path: Path) -> None:
    from detq.models import official

    architecture = official("yolov6n_base", class_count=3)

    def drop(modules: dict[str, torch.nn.Module]) -> None:
        modules["neck.Rep_p3.conv1.block.bn"].weight = None

    write_checkpoint(path, small_network(architecture), architecture, edit=drop)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_absent, ("No such file", "check the path")),
        (_text, ("not a torch checkpoint",)),
        (_malicious, ("posix.system", "nothing in it was run")),
        (_truncated, ("damaged or cut short",)),
        (_incomplete, ("tensor neck.Rep_p3.conv1.block.bn.weight is missing",)),
    ],
    ids=["absent", "text", "malicious", "truncated", "incomplete"],
)
@pytest.mark.parametrize("command", ["quantize", "inspect"])
def test_bad_checkpoint(
    refused: Refused,
    tmp_path: Path,
    colour_data: Path,
    command: str,
    make: Callable[[Path], None],
    words: tuple[str, ...],
) -> None:
    make(tmp_path / "x.pt")
    options = ("--data", colour_data, "--output", "a/b") if command == "quantize" else ()
    line = refused(command, "x.pt", *options, words=words)
    assert line.startswith("error: x.pt: ")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("missing", ["colours.xml", "colours.bin", "metadata.yaml"])
def test_incomplete_exported_directory(
    refused: Refused, tmp_path: Path, colour_model: Path, missing: str
) -> None:
    shutil.copytree(colour_model, tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    refused("bench", "model", words=(missing[-4:],))


def test_other_files_that_are_no_models(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused("bench", "empty", words=("expected one .xml, found 0",))
    refused("bench", "absent.xml", words=("absent.xml",))
    refused("bench", "absent.onnx", words=("no such file",))
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    refused("bench", "x.onnx", words=("not a readable ONNX model",))
    (tmp_path / "x.tflite").write_bytes(b"TFL3")
    refused("bench", "x.tflite", words=("unknown kind of model file '.tflite'",))


def test_second_model_is_opened_before_the_first_is_measured(
    refused: Refused, colour_model: Path, colour_data: Path
) -> None:
    refused("eval", colour_model, "absent.pt", "--data", colour_data, words=("absent.pt",))


def test_quantized_model_cannot_be_quantized_again(
    detq: Command, refused: Refused, colour_model: Path, colour_data: Path
) -> None:
    assert detq("quantize", colour_model, "--data", colour_data, "--output", "int8").status == 0
    words = ("is quantized already; pass the float model",)
    refused("quantize", "int8", "--data", colour_data, "--output", "again", words=words)
    refused("inspect", "int8", words=("already quantized; inspect the float model",))


# Data sets


@pytest.fixture
def train(colour_data: Path, colour_images: Path) -> Path:
    """The folder of a split ``train`` of its own, with the images of ``val``."""
    folder = colour_images.with_name("train")
    shutil.copytree(colour_images, folder)
    yaml_text = colour_data.read_text()
    colour_data.write_text(yaml_text.replace("train: images/val", "train: images/train"))
    return folder


@pytest.fixture
def quantize(refused: Refused, colour_model: Path, colour_data: Path) -> Refused:
    """``refused`` for ``detq quantize`` of a good model with a data set that a test spoils."""

    def run(*options: str | Path, words: tuple[str, ...], status: int = 1) -> str:
        arguments = ("quantize", colour_model, "--data", colour_data, *options)
        return refused(*arguments, words=words, status=status)

    return run


def test_data_set_yaml(quantize: Refused, colour_data: Path) -> None:
    text = colour_data.read_text()
    colour_data.write_text(f"{text}tets: images\n")
    words = ("unknown key 'tets'", "known keys: path, train, val, test, names", "mean 'test'?")
    quantize(words=words)
    colour_data.write_text("names: [red\n")
    quantize(words=("data.yaml: not a YAML file",))
    colour_data.write_text("- red\n")
    quantize(words=("data.yaml: expected `key: value` lines",))
    colour_data.write_text(f"{text}nc: 4\n")
    quantize(words=("nc: 4, but names lists 3 classes",))
    colour_data.unlink()
    quantize(words=("data.yaml: cannot be read (No such file or directory)",))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--split", "tset"), ("no split 'tset'; it names: train, val",)),
        (("--split", "test"), ("no split 'test'; it names: train, val",)),
        (("--split", "path"), ("no split 'path'",)),
        (("--calib-split", "test"), ("no split 'test'",)),
        (("--recipe", "cwfs"), ("recipe 'cwfs'", "one of cfws_kl, cfws_minmax")),
        (("--recipe", "absent.yaml"), ("absent.yaml: cannot be read",)),
        (("--compare", "fast"), ("recipe 'fast'",)),
        (("--compare", "measured"), ("'measured' would be two rows",)),
        (("--imgsz", "abc"), ("--imgsz abc: expected a side in pixels, or HxW",)),
        (("--imgsz", "32x"), ("--imgsz 32x",)),
        (("--imgsz", "0"), ("--imgsz 0",)),
        (("--imgsz", "-32"), ("--imgsz -32",)),
        (("--imgsz", "32x32x3"), ("--imgsz 32x32x3",)),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_bad_option(quantize: Refused, options: tuple[str, str], words: tuple[str, ...]) -> None:
    quantize(*options, words=words)


def test_image_size_must_be_a_multiple_of_the_stride(refused: Refused, shared: Path) -> None:
    checkpoint = shared / "checkpoints/bccd_yolov6n.pt"
    words = ("image size 330x330", "multiples of the largest stride 32", "--imgsz")
    refused("inspect", checkpoint, "--imgsz", "330", words=words)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--preset", "voc"), "'voc' is not one of 'yolov6', 'coco', 'ultralytics'"),
        (("--calib-images", "0"), "greater than or equal to 1"),
        (("--calib-images", "many"), "valid integer"),
        (("--reciep", "kl"), "--reciep"),
        (("another.pt",), "unexpected extra argument"),
    ],
)
def test_wrong_usage(quantize: Refused, options: tuple[str, ...], word: str) -> None:
    quantize(*options, words=(word, "detq --help"), status=2)


def test_no_arguments_show_the_help_and_no_error(detq: Command) -> None:
    outcome = detq()
    assert (outcome.status, outcome.errors) == (2, [])
    assert "quantize" in outcome.out + outcome.err


def test_wrong_usage_before_any_command(refused: Refused) -> None:
    refused("quantise", words=("No such command 'quantise'",), status=2)
    refused("quantize", words=("Missing argument",), status=2)


def test_recipe_with_an_unknown_key(quantize: Refused, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nranges: {backbone: kl, bits: 8}\n")
    quantize("--recipe", path, words=("mine.yaml",))
    path.write_text("name: mine\nranges: {bits: 8}\n")
    quantize("--recipe", path, words=("unknown key 'ranges.bits'", "known keys: backbone, neck"))
    path.write_text("name: float\n")
    quantize("--recipe", path, words=("'float' would be two rows",))


def test_json_annotations_with_an_unknown_category(
    quantize: Refused, refused: Refused, colour_model: Path, colour_data: Path
) -> None:
    document = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "violet"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 0, 9, 9]}],
    }
    (colour_data.parent / "val.json").write_text(json.dumps(document))
    colour_data.write_text(f"{colour_data.read_text()}annotations: {{val: val.json}}\n")
    words = ("val.json: annotations[0]", "'violet' is not a class", "`names`")
    quantize(words=words)
    refused("eval", colour_model, "--data", colour_data, words=words)


def test_no_images(quantize: Refused, colour_data: Path, colour_images: Path) -> None:
    for path in colour_images.iterdir():
        path.unlink()
    quantize(words=(f"{colour_images}: no images",))
    colour_images.rmdir()
    quantize(words=(f"{colour_images}: no such image or folder",))


def test_only_damaged_calibration_images(quantize: Refused, train: Path) -> None:
    for path in train.iterdir():
        path.write_bytes(path.read_bytes()[:60])
    quantize(words=("no calibration image could be read (2 are damaged)",))


def test_damaged_calibration_image_is_skipped_and_counted(
    detq: Command, tmp_path: Path, colour_model: Path, colour_data: Path, train: Path
) -> None:
    (train / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    outcome = detq("quantize", colour_model, "--data", colour_data, "--output", "out")
    assert outcome.status == 0
    assert "warning: 1 damaged images skipped: torn.jpg" in outcome.err.splitlines()
    details = yaml.safe_load((tmp_path / "out/metadata.yaml").read_text())["detq"]
    assert details["calibration"]["images"] == 2
    assert details["calibration"]["skipped"] == ["torn.jpg"]


def test_damaged_image_is_left_out_of_an_evaluation_with_a_word(
    detq: Command, tmp_path: Path, colour_model: Path, colour_data: Path, colour_images: Path
) -> None:
    content = (colour_images / "a.png").read_bytes()
    (colour_images / "a.png").write_bytes(content[:-20])
    outcome = detq("eval", colour_model, "--data", colour_data, "--json", "out.json")
    assert outcome.status == 0
    line = "split val, 1 images: 1 damaged images left out (a.png)"
    assert line in outcome.err.splitlines()
    data = json.loads((tmp_path / "out.json").read_text())["data"]
    assert (data["images"], data["damaged_images"], data["damaged_files"]) == (1, 1, ["a.png"])


@pytest.mark.parametrize("kind", ["fifo", "bomb"])
def test_image_that_would_take_all_time_or_memory_stops_an_evaluation(
    refused: Refused, colour_model: Path, colour_data: Path, colour_images: Path, kind: str
) -> None:
    path = colour_images / "c.png"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (30000).to_bytes(4) * 2 + b"\x08\0\0\0\0"
        path.write_bytes(header + zlib.crc32(header[12:]).to_bytes(4))
    words = ("c.png", "no regular file" if kind == "fifo" else "more than 256 megapixels")
    refused("eval", colour_model, "--data", colour_data, words=words)


def test_keys_of_other_programs_are_ignored_with_one_note(
    detq: Command, colour_model: Path, colour_data: Path
) -> None:
    colour_data.write_text(f"{colour_data.read_text()}roboflow: {{url: x}}\nis_coco: False\n")
    outcome = detq("eval", colour_model, "--data", colour_data)
    assert outcome.status == 0
    notes = [line for line in outcome.err.splitlines() if "without a meaning here" in line]
    assert notes == [f"{colour_data}: without a meaning here: roboflow, is_coco"]


def test_folder_of_photographs_calibrates_and_shows_agreement(
    detq: Command, tmp_path: Path, colour_model: Path, train: Path
) -> None:
    outcome = detq(
        *("quantize", colour_model, "--data", train, "--output", "out", "--json", "out.json")
    )
    assert outcome.status == 0
    assert (
        "warning: split val has no ground truth: mAP was not measured" in outcome.err.splitlines()
    )
    assert "agreement with float" in outcome.out
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["data"]["calibration_images"] == 2


def test_model_without_class_names_takes_those_of_the_data_set(
    detq: Command, tmp_path: Path, colour_graph: DetectorGraph, colour_data: Path
) -> None:
    """In the exported directory; photographs in folders name no classes of objects."""
    nameless = replace(colour_graph.spec, class_names=placeholder_names(3))
    write_artifact(DetectorGraph(colour_graph.model, nameless), tmp_path / "nameless")
    photographs = tmp_path / "photographs"
    for folder in ("a", "b", "c"):
        shutil.copytree(colour_data.parent / "images/val", photographs / folder)
    for data, names in (
        (colour_data, ["red", "green", "blue"]),
        (photographs, ["class0", "class1", "class2"]),
    ):
        outcome = detq(
            *("quantize", "nameless", "--data", data, "--recipe", "minmax", "--output", "named")
        )
        assert outcome.status == 0, outcome
        metadata = yaml.safe_load((tmp_path / "named/metadata.yaml").read_text())
        assert list(metadata["names"].values()) == names


def test_what_cannot_be_scored_is_said_before_any_image_is_read(
    refused: Refused, colour_model: Path, colour_data: Path, colour_images: Path
) -> None:
    (colour_images / "a.png").write_bytes(b"would be the error of a later stage")
    for path in (colour_data.parent / "labels/val").iterdir():
        path.rename(path.with_suffix(".away"))
    refused("eval", colour_model, "--data", colour_data, words=("split val: no ground truth",))


# Places to write to


@pytest.fixture
def occupied(tmp_path: Path) -> Path:
    """A regular file: nothing can be made below it, even by root."""
    (tmp_path / "file").write_text("mine")
    return tmp_path / "file"


def test_output_that_cannot_be_written(quantize: Refused, tmp_path: Path, occupied: Path) -> None:
    quantize("--output", occupied / "model", words=("cannot be written (Not a directory)",))
    quantize("--output", occupied / "a/model", words=("cannot be written (Not a directory)",))
    words = ("exists and is not an exported model", "pass another --output")
    quantize("--output", occupied, words=words)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/metadata.yaml").write_text("camera: old\n")
    quantize("--output", "photos", words=words)


@pytest.mark.parametrize("command", ["quantize", "eval", "bench", "predict", "inspect"])
def test_json_file_that_cannot_be_written_is_said_first(
    refused: Refused, tmp_path: Path, occupied: Path, command: str
) -> None:
    """The model and data do not exist: had anything been done before, they would be the error."""
    options = {"quantize": ("--data", "no.yaml"), "eval": ("--data", "no.yaml"), "predict": ("no",)}
    arguments = (command, "no.pt", *options.get(command, ()), "--json")
    refused(*arguments, occupied / "x.json", words=("x.json: cannot be written",))
    refused(*arguments, tmp_path, words=("cannot be written (Is a directory)",))


def test_pictures_that_cannot_be_written(
    refused: Refused, colour_model: Path, colour_images: Path, occupied: Path
) -> None:
    words = ("cannot be written", "pass another --output")
    refused("predict", colour_model, colour_images, "--output", occupied / "p", words=words)
    refused("predict", colour_model, colour_images, "--output", occupied, words=words)
    words = ("a.png: is an image of", "pass another --output")
    own = ("--draw", "--output", colour_images)
    refused("predict", colour_model, colour_images, *own, words=words)


@pytest.mark.parametrize("option", [("--confidence", "1.5"), ("--iou", "-1")], ids=" ".join)
def test_threshold_outside_its_range(
    refused: Refused, colour_model: Path, colour_images: Path, option: tuple[str, str]
) -> None:
    words = ("expected confidence in [0, 1), IoU in [0, 1]",)
    refused("predict", colour_model, colour_images, *option, words=words)


# A run that is stopped


@pytest.fixture
def observing(
    tmp_path: Path,
    colour_graph: DetectorGraph,
    colour_model: Path,
    colour_data: Path,
    train: Path,
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process in the middle of calibration that is to replace an exported directory."""
    write_artifact(colour_graph, tmp_path / "out")
    for number in range(3000):
        (train / f"{number}.png").hardlink_to(train / "a.png")
    options = ("--data", colour_data, "--calib-images", "3000", "--output", "out")
    with running(tmp_path, "quantize", colour_model, *options) as process:
        assert process.stderr is not None
        assert any(line.startswith("observing") for line in process.stderr)
        yield process, tmp_path


def test_ctrl_c_is_one_line_and_leaves_the_old_directory(
    observing: tuple[subprocess.Popen[str], Path],
) -> None:
    process, folder = observing
    before = _tree(folder)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.read().strip() == "error: interrupted; nothing was written"
    assert process.wait() == 1
    assert _tree(folder) == before


def test_killed_run_leaves_the_old_directory(
    observing: tuple[subprocess.Popen[str], Path],
) -> None:
    process, folder = observing
    before = _tree(folder)
    process.kill()
    process.wait()
    assert _tree(folder) == before


def test_recipe_to_compare_with_that_breaks_the_model_is_left_out(
    detq: Command, few_blood_cells: Path, bccd_float: Path, tmp_path: Path
) -> None:
    ranges = "{backbone: percentile, neck: percentile, head: percentile, percentile: 51}"
    (tmp_path / "absurd.yaml").write_text(f"name: absurd\nranges: {ranges}\n")
    outcome = detq(
        *("quantize", bccd_float, "--data", few_blood_cells, "--split", "test"),
        *("--calib-images", "8", "--recipe", "minmax", "--compare", "absurd.yaml"),
    )
    assert outcome.status == 0
    assert "absurd is left out of the comparison: " in outcome.err
    assert "absurd" not in outcome.out
