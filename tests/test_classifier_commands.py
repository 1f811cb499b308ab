"""The whole job on a small classifier: it can be right, and the truth is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from command_line import Command
from installs import ROOT
from torch import nn

import detq
from detq.models.classifiers import ChainClassifier, repvgg

COLOURS = ("red", "green", "blue")
SIDE_PX = 24


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in which one colour prevails, one folder per colour, larger than the network's input.

    Twenty images per class to calibrate and judge on, ten to measure on.
    """
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 10)):
        for index, colour in enumerate(COLOURS):
            (folder / split / colour).mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 180, (40, 50, 3), np.uint8)
                image[:, :, 2 - index] = rng.integers(60, 256, (40, 50), np.uint8)
                name = f"{number}{index}.png"  # sampling goes by file names
                cv2.imwrite(str(folder / split / colour / name), image)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RepVGG of three layers that tells the prevailing colour, as its repository would save it.

    The identity hands the colours on; the other branches are small noise.
    """
    architecture = repvgg((1, 2), (3, 3), (1, 2), class_count=3, mean=(0.3,) * 3, std=(0.2,) * 3)
    torch.manual_seed(0)
    network = ChainClassifier(architecture)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(0.1)
                if module.kernel_size == (1, 1):  # where the shape changes there is no identity
                    module.weight[range(3), range(3)] += 1.0
        network.linear.weight.copy_(8 * torch.eye(3))
        network.linear.bias.zero_()
    names = {"branches.0.": "rbr_dense.", "pointwise.": "rbr_1x1.", "identity.": "rbr_identity."}
    state = {}
    for key, tensor in network.state_dict().items():
        ours = next((name for name in names if name in key), "")
        state[key.replace(ours, names[ours]) if ours else key] = tensor
    path = tmp_path_factory.mktemp("model") / "colours.pth"
    facts = {"names": list(COLOURS), "strides": [1, 2], "imgsz": SIDE_PX}
    colour = {"mean": [0.3] * 3, "std": [0.2] * 3}
    torch.save({"state_dict": state, **facts, **colour}, path)
    return path


def test_the_whole_job(detq: Command, checkpoint: Path, colours: Path, tmp_path: Path) -> None:
    made = detq(
        *("quantize", checkpoint, "--data", colours, "--recipe", "cfws_kl"),
        *("--calib-images", "20", "--compare", "minmax", "--json", "made.json"),
    )
    assert made.status == 0, made.err
    document = json.loads((tmp_path / "made.json").read_text())
    names = [row["model"] for row in document["models"]]
    assert (names[0], names[-2:]) == ("float", ["minmax", "cfws_kl"])
    assert [row["top1"] for row in document["models"]] == [100.0] * len(names)
    assert [row["top5"] for row in document["models"]] == [100.0] * len(names)
    assert document["agreement"] == 100.0
    directory = tmp_path / "colours_int8_openvino_model"
    metadata = yaml.safe_load((directory / "metadata.yaml").read_text())
    assert metadata["task"] == "classify"
    assert metadata["names"] == dict(enumerate(COLOURS))
    assert metadata["detq"]["split_layers"] == ["stage0.fused", "stage1.0.fused", "stage1.1.fused"]
    assert metadata["detq"]["measured"]["models"]["cfws_kl"]["top1"] == 100.0
    report = (directory / "report.html").read_text()
    assert "+0.00 top-1" in report
    assert "both find the same class" in report

    judged = detq("eval", checkpoint, directory, "--data", colours, "--json", "judged.json")
    assert judged.status == 0, judged.err
    rows = json.loads((tmp_path / "judged.json").read_text())["models"]
    assert [row["precision"] for row in rows] == ["fp32", "int8"]
    assert [row["images"] for row in rows] == [30, 30]

    seen = detq("predict", directory, colours / "val/green", "--json", "seen.json")
    assert seen.status == 0, seen.err
    images = json.loads((tmp_path / "seen.json").read_text())["images"]
    assert len(images) == 10
    for image in images:
        assert image["classes"][0]["label"] == "green"
        assert sum(found["score"] for found in image["classes"]) == pytest.approx(1, abs=1e-3)

    speed = detq("bench", checkpoint, directory, "--rounds", "2", "--bursts", "1", "--layers")
    assert speed.status == 0, speed.err
    assert "int8" in speed.out

    layers = detq("inspect", checkpoint)
    assert layers.status == 0
    assert "stage1.1.fused" in layers.out


def test_default_recipe_and_guard_work_on_a_classifier(
    detq: Command, checkpoint: Path, colours: Path, tmp_path: Path
) -> None:
    made = detq(
        *("quantize", checkpoint, "--data", colours, "--calib-images", "30"),
        *("--max-drop", "1", "--json", "made.json"),
    )
    assert made.status == 0, made.err
    assert "the drop was 0.00, is 0.00" in made.out
    rows = json.loads((tmp_path / "made.json").read_text())["models"]
    assert rows[-1]["top1"] == 100.0


def test_images_without_classes_are_enough_to_quantize(
    detq: Command, checkpoint: Path, colours: Path, tmp_path: Path
) -> None:
    (tmp_path / "data.yaml").write_text(
        f"path: {colours}\ntrain: train\nval: val/red\nnames: [red, green, blue]\n"
    )
    made = detq(
        *("quantize", checkpoint, "--data", "data.yaml", "--recipe", "minmax"),
        *("--calib-images", "20", "--output", "out"),
    )
    assert made.status == 0, made.err
    assert "top-1 was not measured" in made.err
    assert "top-1 was not measured" in (tmp_path / "out/report.html").read_text()


def test_convert_keeps_the_classifier(
    detq: Command, checkpoint: Path, colours: Path, tmp_path: Path
) -> None:
    assert detq("convert", checkpoint, "colours.safetensors").status == 0
    judged = detq("eval", "colours.safetensors", "--data", colours, "--json", "judged.json")
    assert judged.status == 0, judged.err
    assert json.loads((tmp_path / "judged.json").read_text())["models"][0]["top1"] == 100.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("eval", "{cls}", "{det}", "--data", "{data}"), "detectors and classifiers share no"),
        (("bench", "{cls}", "--rounds", "1", "--source", "{data}"), "--source: measures detectors"),
        (("eval", "{cls}", "--data", "{boxes}"), "lies in no class folder"),
        (("eval", "{cls}", "--data", "{empty}"), "no folders of images"),
    ],
    ids=["both tasks", "source", "detection data", "empty folder"],
)
def test_what_makes_no_sense_is_one_line(
    detq: Command,
    checkpoint: Path,
    colours: Path,
    colour_model: Path,
    colour_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    places = {
        "cls": checkpoint,
        "det": colour_model,
        "data": colours,
        "boxes": colour_data,
        "empty": tmp_path_factory.mktemp("empty"),
    }
    outcome = detq(*(argument.format(**places) for argument in arguments))
    assert outcome.failed_well
    assert said in outcome.err


def test_python_functions_say_what_a_model_is_not(checkpoint: Path, colour_model: Path) -> None:
    with pytest.raises(detq.DetqError, match="classifies images"):
        detq.detector(checkpoint)
    with pytest.raises(detq.DetqError, match="is a detector"):
        detq.classifier(colour_model)


def test_one_image_goes_through_the_classifier(checkpoint: Path, colours: Path) -> None:
    image = cv2.imread(str(next((colours / "val/blue").iterdir())))
    ranking = detq.classifier(checkpoint).classify(image)
    assert ranking.named(COLOURS)[0].label == "blue"
    with pytest.raises(detq.DetqError, match=r"expected an image of uint8 \[H, W, 3\]"):
        detq.classifier(checkpoint).classify(image[:, :, 0])


@pytest.mark.parametrize("command", ["eval", "quantize"])
def test_classes_are_for_detectors(
    detq: Command, command: str, checkpoint: Path, colours: Path
) -> None:
    outcome = detq(command, checkpoint, "--data", colours, "--per-class")
    assert outcome.status == 1
    assert outcome.err.endswith("error: --per-class: is for detectors; leave it out\n")


def test_a_classifier_is_a_row_of_the_zoo(checkpoint: Path, colours: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    from zoo import Zoo
    from zoo_plan import Entry, Plan
    from zoo_results import Results

    entry = Entry(model=str(checkpoint), data=str(colours), images=40)
    plan = Plan(models=(entry,), seeds=(0,), recipes=("cfws_kl",))
    results = Results(tmp_path / "zoo.jsonl")
    run = Zoo(plan, results, root=tmp_path)
    run.measure(entry)
    row = run.rows()["colours", "cfws_kl", 0]
    assert (row["measure"], row["score"], row["images"]) == ("top-1", 100.0, 30)
    assert row["classes"] == {colour: [100.0, 10] for colour in COLOURS}
    assert (row["held_back"], row["held_back_images"]) == (100.0, 20)
    assert (results.arrays(("colours", "cfws_kl", 0))["resampled"] == 100).all()
