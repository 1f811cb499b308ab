"""The product at work, with nothing but what detq brings along: real weights, real measurements."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, Command

from detq import api
from detq.adapters import read_model
from detq.data.images import read_image_bgr
from detq.runtime.machine import float_precisions

IMAGES = 100
WRITTEN = "27 58 85 3 14159 1984 1066 0637 259"


@dataclass(frozen=True)
class Finished:
    """What a quickstart left behind, and what it showed."""

    folder: Path
    out: str
    err: str
    document: dict[str, Any]

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["model"]: row for row in self.document["models"]}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One run for all tests, with fewer test scenes than a user's."""
    folder = tmp_path_factory.mktemp("quickstart")
    command = (*COMMAND, "quickstart", "--images", str(IMAGES), "--json", "results.json")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads((folder / "results.json").read_text())
    return Finished(folder, done.stdout, done.stderr, document)


def test_float_model_finds_unseen_digits(finished: Finished) -> None:
    row = finished.rows["float"]
    assert row["images"] == IMAGES
    assert row["map"] > 75
    assert (row["precision"], row["int8_share"]) == ("fp32", 0)


def test_int8_is_as_good_as_float_and_executes_int8(finished: Finished) -> None:
    rows = finished.rows
    assert rows["cfws_kl"]["map"] > rows["float"]["map"] - 0.6  # 100 scenes: half a point is noise
    assert finished.document["agreement"] > 90
    for name in ("minmax", "cfws_kl"):
        assert rows[name]["precision"] == "int8"
        assert rows[name]["int8_share"] >= 0.95
        assert rows[name]["size_mb"] < 0.35 * rows["float"]["size_mb"]


def test_plain_int8_is_measured_too(finished: Finished) -> None:
    rows = finished.rows
    assert rows["minmax"]["map"] is not None
    assert rows["minmax"]["map"] != rows["cfws_kl"]["map"]


def test_table_shows_every_row_and_every_path_exists(finished: Finished) -> None:
    heading, *rows = finished.out.splitlines()
    for column in ("mAP", "AP50", "AP75", "latency", "speed-up", "MB"):
        assert column in heading
    floats = len(float_precisions())
    assert [row.split()[0] for row in rows[: floats + 2]] == [
        *["float"] * floats,
        "minmax",
        "cfws_kl",
    ]
    for key in ("output", "report", "pictures"):
        path = finished.folder / finished.document[key]
        assert path.exists()
        assert finished.document[key] in finished.out


def test_every_stage_is_announced(finished: Finished) -> None:
    for stage in ("drawing test scenes", "observing", "evaluating", "measuring latency"):
        assert stage in finished.err


def test_pictures_have_boxes_drawn_in_them(finished: Finished) -> None:
    pictures = sorted((finished.folder / finished.document["pictures"]).iterdir())
    assert len(pictures) == 9
    for picture in pictures:
        original = read_image_bgr(finished.folder / "runs/quickstart/samples" / picture.name)
        drawn = read_image_bgr(picture)
        assert drawn.shape == original.shape
        assert (abs(drawn.astype(int) - original) > 60).mean() > 0.002


def test_report_is_about_what_was_measured(finished: Finished) -> None:
    report = (finished.folder / finished.document["report"]).read_text(encoding="utf-8")
    assert f"{finished.rows['cfws_kl']['map']:.2f}" in report


def test_digits_on_a_page_that_the_generator_did_not_make(finished: Finished) -> None:
    model = finished.folder / finished.document["output"]
    (prediction,) = api.predict(model, api.HANDWRITING, output=model.parent / "page")
    found = sorted(detection.label for detection in prediction.detections)
    written = sorted(sign for sign in WRITTEN if sign.isdigit())
    common = sum(min(found.count(digit), written.count(digit)) for digit in set(written))
    assert common >= 0.8 * len(written)
    assert len(found) <= 1.25 * len(written)


def test_folder_with_something_else_in_it_is_left_alone(detq: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    outcome = detq("quickstart", "--output", "mine")
    assert outcome.failed_well
    assert "holds other files" in outcome.errors[0]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_weights_are_what_their_card_and_checksums_say() -> None:
    sums = dict(
        reversed(line.split("  "))
        for line in (api.EMBEDDED / "SHA256SUMS").read_text().splitlines()
    )
    assert set(sums) == {"digits_yolov6n.safetensors", "digits_yolov6n.json"}
    for name, expected in sums.items():
        assert hashlib.sha256((api.EMBEDDED / name).read_bytes()).hexdigest() == expected
    card = json.loads((api.EMBEDDED / "digits_yolov6n.json").read_text())
    stored = read_model(api.EMBEDDED / "digits_yolov6n.safetensors")
    assert card["classes"] == list(stored.class_names)
    assert card["image_size_hw"] == list(stored.size_hw)
    assert card["parameters"] == stored.parameter_count
    assert card["float_map_percent"]["map"] >= 80
    assert sum(path.stat().st_size for path in api.EMBEDDED.iterdir() if path.is_file()) < 20e6
