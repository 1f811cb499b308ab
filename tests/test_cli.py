"""What the commands print and write when all goes well. What goes wrong: test_bad_input.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import COMMAND, EVAL_KEYS, Command, read_json
from PIL import Image

from detq import __version__, artifact
from detq.api import builtin_recipes
from detq.cli.arguments import image_size
from detq.console.classes import print_classes
from detq.data.images import read_image_bgr, write_image
from detq.graph.detector_graph import DetectorGraph
from detq.records import ClassScores, Confusion, EvalResult, ModelSpec

COMMANDS = (
    *("quantize", "eval", "bench", "predict", "inspect", "convert", "export", "digits"),
    *("quickstart", "demo"),
)
CLASS_KEYS = [
    *("map", "map50", "mar100", "objects", "best_f1", "best_confidence"),
    *("precision_by_recall", "f1_by_confidence"),
]


# Help


def test_help_is_light_and_lists_every_command() -> None:
    code = (
        "import sys\n"
        "from detq.cli import main\n"
        "sys.argv = ['detq', '--help']\n"
        "try: main()\n"
        "finally: print(*{'torch', 'openvino', 'nncf'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_plain()
    )
    assert done.stderr.strip() == ""
    for command in COMMANDS:
        assert f" {command} " in done.stdout


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("quantize", "data recipe imgsz calib-images split compare output json"),
        ("eval", "data split imgsz preset json"),
        ("bench", "imgsz rounds threads streams pin source peer layers rect tune json"),
        ("predict", "output imgsz confidence iou json"),
        ("inspect", "imgsz layout plot json"),
        ("export", "format output data recipe imgsz layout embed-preprocess confidence iou"),
    ],
)
def test_help_of_a_command_lists_its_options(detq: Command, command: str, options: str) -> None:
    outcome = detq(command, "--help")
    assert (outcome.status, outcome.err) == (0, "")
    for option in options.split():
        assert f"--{option}" in outcome.out


def test_version_is_the_packages(detq: Command) -> None:
    said = f"detq {metadata.version('detq')}\n"
    assert detq("--version").out == said
    module = [sys.executable, "-m", "detq", "--version"]
    assert subprocess.run(module, capture_output=True, text=True, check=True).stdout == said
    assert __version__ in said


def test_every_command_can_be_quiet(detq: Command, tmp_path: Path) -> None:
    for command in COMMANDS:
        assert "--quiet" in detq(command, "--help").out
    write_image(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"no image")
    done = detq("predict", "digits_yolov6n", str(tmp_path), "--output", str(tmp_path / "o"), "-q")
    assert (done.out, done.status) == ("", 0)
    assert re.match("warning: .* no score of 3%", done.err)
    assert len(done.err.splitlines()) == 1
    failed = detq("predict", "digits_yolov6n", str(tmp_path / "none"), "-q")
    assert failed.err.startswith("error: ")


def test_help_names_every_recipe(detq: Command) -> None:
    said = re.sub(r"[│\s]", "", detq("quantize", "--help").out)
    assert [one.stem for one in builtin_recipes() if one.stem not in said] == []


def _plain() -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "80"}


# Smaller things


def test_guard_holds_a_drop_or_writes_nothing(
    detq: Command, bccd_float: Path, few_blood_cells: Path, tmp_path: Path
) -> None:
    """Of a head that is clipped, which costs as much on every CPU."""
    (tmp_path / "clipped.yaml").write_text(
        "name: clipped\n"
        "ranges: {backbone: minmax, neck: minmax, head: percentile, percentile: 98}\n"
    )
    options = (
        *("--data", few_blood_cells, "--split", "test", "--calib-images", "8"),
        *("--recipe", "clipped.yaml", "--json", "r.json", "--output", "out"),
    )
    outcome = detq("quantize", bccd_float, *options, "--max-drop", "0.5")
    assert outcome.status == 0
    float_row, *_, int8_row = read_json(tmp_path / "r.json")["models"]
    assert float_row["map"] - int8_row["map"] <= 0.5
    assert re.search(r"--max-drop: \d+ tensors given back to float", outcome.out)
    metadata = yaml.safe_load((tmp_path / "out/metadata.yaml").read_text())["detq"]
    assert metadata["guard"]["returned_to_float"]
    assert not (tmp_path / "out.guard.json").exists()

    late = (*options[:-1], "late", "--max-drop", "0.05", "--time-limit", "0")
    outcome = detq("quantize", bccd_float, *late)
    assert outcome.failed_well
    assert "run the same command again" in outcome.errors[0]
    assert not (tmp_path / "late").exists()


def test_eval_writes_percent_and_null(
    detq: Command, tmp_path: Path, colour_model: Path, colour_data: Path
) -> None:
    arguments = (colour_model, colour_model / "colours.xml", "--data", colour_data)
    outcome = detq("eval", *arguments, "--json", "eval.json")
    assert outcome.status == 0
    document = read_json(tmp_path / "eval.json")
    assert sorted(document) == ["data", "doubts", "models"]
    assert (document["data"]["split"], document["data"]["images"]) == ("val", 2)
    for row, model in zip(document["models"], arguments[:2], strict=True):
        assert list(row) == [*EVAL_KEYS, "float_precision"]
        assert row["model"] == str(model)
        assert row["map"] == pytest.approx(200 / 3)
        assert row["map_small"] is None
        assert (row["images"], row["precision"]) == (2, "fp32")
        assert row["seconds"] > 0
    assert len(outcome.out.splitlines()) == 3
    assert " - " in outcome.out


def test_eval_of_each_class(
    detq: Command, tmp_path: Path, colour_model: Path, colour_data: Path
) -> None:
    """One object of green is missed, which has the number 0 in label files (protocol yolov6)."""
    arguments = ("--data", colour_data, "--per-class", "--json", "eval.json")
    outcome = detq("eval", colour_model, colour_model, *arguments)
    assert outcome.status == 0
    model = read_json(tmp_path / "eval.json")["models"][1]
    assert list(model) == [
        *EVAL_KEYS,
        *("per_class", "all_classes", "confusion", "float_precision"),
    ]
    classes = model["per_class"]
    assert sorted(classes) == ["blue", "green", "red"]
    for one in (*classes.values(), model["all_classes"]):
        assert list(one) == CLASS_KEYS
        assert len(one["precision_by_recall"]) == len(one["f1_by_confidence"]) == 101
    assert np.mean([one["map"] for one in classes.values()]) == pytest.approx(200 / 3)
    assert sum(one["objects"] for one in classes.values()) == model["all_classes"]["objects"]
    assert {pair["object"] for pair in model["confusion"]["pairs"]} >= {*classes}
    rows = [line.split() for line in outcome.out.splitlines() if line.strip()]
    shown = [row for row in rows if row[0] in classes]  # long names of models fold the heading
    assert [row[0] for row in shown[:3]] == list(classes)
    assert all(row[-3:] == ["+0.00"] * 3 for row in shown[:3])


def _result(name: str, **maps: float | None) -> EvalResult:
    classes = {key: ClassScores(value, value, None, 0) for key, value in maps.items()}
    return EvalResult(name, {"map": 1.0}, 1, 1.0, "int8", 1.0, per_class=classes)


def test_classes_that_lose_most_are_on_top(capsys: pytest.CaptureFixture[str]) -> None:
    first = _result("float", ant=50.0, bee=None, cat=20.0, dog=70.0)
    last = _result("int8", ant=49.0, bee=None, cat=25.0, dog=60.0)
    for results, names in (([first, last], "dog ant cat bee"), ([last], "cat ant dog bee")):
        print_classes(results)
        lines = capsys.readouterr().out.splitlines()
        start = next(n for n, line in enumerate(lines) if line.startswith("all classes"))
        shown = [line.split() for line in lines[start + 1 : start + 5]]
        assert [row[0] for row in shown] == names.split()
        assert shown[-1][1:3] == ["0", "-"]  # undefined, not 0


def test_mistakes_are_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of classes are what they are, also where they look like markup."""
    names = ("[red]ant", "bee")
    counts = {(0, 1): 3, (0, 2): 5, (2, 1): 7, (1, 1): 9}
    confusion = Confusion(names, counts, iou=0.5, confidence=0.25)
    print_classes([replace(_result("m", **dict.fromkeys(names, 1.0)), confusion=confusion)])
    shown = [line.split() for line in capsys.readouterr().out.splitlines()[-3:]]
    assert shown == [
        ["(background)", "bee", "7"],
        ["[red]ant", "(background:", "missed)", "5"],
        ["[red]ant", "bee", "3"],
    ]


def test_calibration_on_the_measured_split_is_warned_of_and_recorded(
    detq: Command, tmp_path: Path, colour_model: Path, colour_data: Path
) -> None:
    outcome = detq("quantize", colour_model, "--data", colour_data, "--output", "out")
    assert outcome.status == 0
    warning = "warning: 2 calibration images are also in split val: its mAP flatters"
    assert warning in outcome.err.splitlines()
    measured = artifact.read_details(tmp_path / "out")["measured"]
    assert measured["calibration_images_in_split"] == 2


@pytest.mark.parametrize("case", ["no split val", "no annotations"])
def test_without_ground_truth_the_model_is_written_all_the_same(
    detq: Command, tmp_path: Path, colour_model: Path, colour_data: Path, case: str
) -> None:
    if case == "no split val":
        text = colour_data.read_text()
        colour_data.write_text(text.replace("\nval: images/val", ""))
    else:
        for path in (colour_data.parent / "labels/val").iterdir():
            path.rename(path.with_suffix(".away"))
    outcome = detq("quantize", colour_model, "--data", colour_data, "--json", "r.json")
    assert outcome.status == 0
    assert (
        "warning: split val has no ground truth: mAP was not measured" in outcome.err.splitlines()
    )
    assert outcome.out.endswith("written to colours_openvino_model_int8_openvino_model\n")
    document = read_json(tmp_path / "r.json")
    assert document["models"] == []
    assert document["agreement"] == pytest.approx(100)
    assert "measured" not in artifact.read_details(tmp_path / document["output"])


def test_results_may_lie_in_the_exported_directory(
    detq: Command, tmp_path: Path, colour_model: Path, colour_data: Path
) -> None:
    for _ in range(2):
        options = ("--data", colour_data, "--output", "runs/a", "--json", "runs/a/results.json")
        assert detq("quantize", colour_model, *options).status == 0
        assert read_json(tmp_path / "runs/a/results.json")["output"] == "runs/a"
        assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a"]


def test_names_with_spaces_brackets_and_foreign_letters(
    detq: Command, tmp_path: Path, colour_graph: DetectorGraph, colour_data: Path
) -> None:
    names = ("czerwony ł", "緑", "[red] x: y")
    spec = ModelSpec("mein modell [1]", "test", names, (32,), (32, 64))
    artifact.write_artifact(DetectorGraph(colour_graph.model, spec), tmp_path / "mein modell")
    document = {"path": ".", "train": "images/val", "val": "images/val", "names": list(names)}
    colour_data.write_text(yaml.safe_dump(document, allow_unicode=True))
    options = ("--data", colour_data, "--output", "aus gabe/ü [b]", "--json", "é/r é.json")
    assert detq("quantize", "mein modell", *options).status == 0
    assert read_json(tmp_path / "é/r é.json")["output"] == "aus gabe/ü [b]"
    found = detq(
        *("predict", "aus gabe/ü [b]", "images", "--draw", "--output", "[p]"),
        *("--json", "p.json"),
    )
    assert found.out.splitlines() == [
        "images/val/a.png: 1 czerwony ł, 1 [red] x: y",
        "images/val/b.png: 1 緑",
    ]
    assert (tmp_path / "[p]/val/a.png").is_file()
    assert "緑" in (tmp_path / "p.json").read_text(encoding="utf-8")


def test_terminal_without_the_letters_of_a_class_name(
    tmp_path: Path, colour_graph: DetectorGraph, colour_images: Path
) -> None:
    """It was a traceback, and the JSON file was not written."""
    spec = ModelSpec("x", "test", ("ł", "緑", "b"), (32,), (32, 64))
    artifact.write_artifact(DetectorGraph(colour_graph.model, spec), tmp_path / "model")
    done = subprocess.run(
        [*COMMAND, "predict", "model", colour_images, "--json", "p.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert b"1 \\u0142, 1 b" in done.stdout
    assert read_json(tmp_path / "p.json")["images"][0]["detections"]


def test_file_name_that_is_no_unicode(
    detq: Command, tmp_path: Path, colour_model: Path, colour_data: Path, colour_images: Path
) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (colour_images / "a.png").rename(colour_images / name)
    assert detq("predict", colour_model, colour_images, "--json", "p.json").status == 0
    assert read_json(tmp_path / "p.json")["images"][1]["file"].endswith(name)
    (colour_images / name).write_bytes(b"torn")
    colour_data.write_text(colour_data.read_text().replace("\nval: images/val", ""))
    assert detq("quantize", colour_model, "--data", colour_data, "--output", "o").status == 0
    assert artifact.read_details(tmp_path / "o")["calibration"]["skipped"] == [r"caf\udce9.png"]


def test_one_class_and_absolute_paths_and_every_kind_of_png(
    detq: Command, tmp_path: Path, colour_graph: DetectorGraph
) -> None:
    (tmp_path / "pictures").mkdir()
    for mode in ("L", "RGBA", "P", "I;16", "1"):
        Image.new(mode, (128, 64), 0).save(tmp_path / f"pictures/{mode[0]}{len(mode)}.png")
    Image.new("RGB", (128, 64), (240, 0, 0)).save(tmp_path / "pictures/red.png")
    (tmp_path / "pictures/red.txt").write_text("0 0.25 0.5 0.5 1\n0 0.75 0.5 0.5 1\n")
    spec = ModelSpec("x", "test", ("red", "g", "b"), (32,), (32, 64))
    artifact.write_artifact(DetectorGraph(colour_graph.model, spec), tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "pictures"
    (tmp_path / "elsewhere/d.yaml").write_text(f"train: {folder}\nval: {folder}\nnames: [red]\n")
    options = ("--data", "elsewhere/d.yaml", "--preset", "coco", "--json", "r.json")
    outcome = detq("quantize", "model", *options, "--output", "out")
    assert outcome.status == 0
    float_row, *_, int8_row = read_json(tmp_path / "r.json")["models"]
    assert (float_row["images"], float_row["map"]) == (6, pytest.approx(100))
    assert int8_row["map"] == pytest.approx(100)


def test_weights_are_drawn_for_a_model_with_nothing_to_split(
    detq: Command, tmp_path: Path, colour_model: Path
) -> None:
    assert detq("inspect", colour_model, "--plot", "a/weights.png").status == 0
    assert read_image_bgr(tmp_path / "a/weights.png").size


def test_disk_that_fails_is_an_error_and_no_traceback(
    detq: Command, monkeypatch: pytest.MonkeyPatch, colour_model: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "x.json")

    monkeypatch.setattr("detq.api.load", fail)
    outcome = detq("inspect", colour_model)
    assert outcome.failed_well
    assert "No space left on device" in outcome.errors[0]


@pytest.mark.parametrize(
    ("text", "size"),
    [("640", 640), ("384x640", (384, 640)), ("384X640", (384, 640)), (None, None)],
)
def test_image_size(text: str | None, size: object) -> None:
    assert image_size(text) == size
