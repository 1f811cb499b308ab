"""The commands of docs/training.md start, take a step and write what detq reads.

They need torchvision, which detq's own environment lacks: ``$DETQ_TRAINING_PYTHON`` names the
interpreter of one that was made as the page says. Without it these tests are skipped.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, Command, commands

from detq.adapters import read_model, write_safetensors
from detq.data.digits import write_digits

PAGE = "docs/training.md"
SCRIPT = "tools/train_embedded.py"
TRAINING = [command for command in commands(PAGE) if SCRIPT in command.words]
NOT_INSTALLED = ("openvino", "nncf", "onnx", "typer", "pycocotools", "sklearn")
"""What the page does not install, and what must not be asked for."""
START = (
    f"import sys, runpy; sys.modules.update(dict.fromkeys({NOT_INSTALLED})); "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
SMALL = {"--imgsz": "64", "--epochs": "1", "--hours": None}
"""In place of what the page says: hours."""


@pytest.fixture(scope="module")
def trainer() -> str:
    python = os.environ.get("DETQ_TRAINING_PYTHON", sys.executable)
    asked = subprocess.run(
        [python, "-c", "import torchvision, ultralytics"], capture_output=True, check=False
    )
    if asked.returncode:
        pytest.skip("needs torchvision and ultralytics: set DETQ_TRAINING_PYTHON")
    return python


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen scenes, one batch, under the names of the page; and a checkpoint to go on from."""
    folder = tmp_path_factory.mktemp("training")
    for data in ("runs/digits", "my"):
        for split in ("train", "val"):
            write_digits(folder / data, split=split, images=16, size_px=64)
    stored = read_model(ROOT / "weights/digits_yolov6n.safetensors")
    write_safetensors(stored, folder / "checkpoint.safetensors")
    return folder


def _small(command: Command) -> list[str]:
    words = list(command.words[command.words.index(SCRIPT) + 1 :])
    options = dict(zip(words[::2], words[1::2], strict=True)) | SMALL
    if options.get("--model", "").endswith(".pt"):
        options["--model"] = "checkpoint.safetensors"
    return [word for option, value in options.items() if value for word in (option, value)]


@pytest.mark.parametrize("command", TRAINING, ids=str)
def test_training_takes_a_step(command: Command, trainer: str, folder: Path) -> None:
    arguments = _small(command)
    done = subprocess.run(
        [trainer, "-c", START, str(ROOT / SCRIPT), *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "YOLO_OFFLINE": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    output = folder / arguments[arguments.index("--output") + 1]
    before = read_model(folder / "checkpoint.safetensors")
    after = read_model(output)
    assert after.class_names == before.class_names
    assert after.size_hw == (64, 64)
    with (folder / "runs/training" / output.stem / "results.csv").open(newline="") as file:
        (epoch,) = csv.DictReader(file)
    assert 0 < float(epoch["train/cls_loss"]) < float("inf")


def test_the_page_trains() -> None:
    assert len(TRAINING) == 4
