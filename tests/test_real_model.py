"""One real model, quantized once by the command line: what is printed, written and measured."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import COMMAND, EVAL_KEYS, Command, read_json

from detq import api
from detq.cli.quantize import LATENCY_ROUNDS
from detq.data.images import read_image_bgr, write_image
from detq.runtime.machine import float_precisions


@dataclass(frozen=True)
class Exported:
    """What ``detq quantize`` did with a real checkpoint: in ``folder``, and on the screen."""

    folder: Path
    out: str
    err: str

    @property
    def directory(self) -> Path:
        return self.folder / "bccd_yolov6n_int8_openvino_model"

    @property
    def document(self) -> dict[str, Any]:
        return read_json(self.folder / "results.json")


@pytest.fixture(scope="session")
def exported(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A YOLOv6-N for blood cells, quantized by the default recipe and by two others beside it.

    It takes a minute or more: one run is shared by every test that looks at its results.
    """
    folder = tmp_path_factory.mktemp("bccd")
    model, data = shared / "checkpoints/bccd_yolov6n.pt", shared / "data/bccd/data.yaml"
    done = subprocess.run(
        (
            *(*COMMAND, "quantize", model, "--data", data, "--split", "test"),
            *("--imgsz", "320", "--calib-images", "100", "--json", "results.json"),
            *("--compare", "minmax", "--compare", "nncf"),
        ),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Exported(folder, done.stdout, done.stderr)


def test_table_has_a_row_for_the_float_model_and_every_recipe(exported: Exported) -> None:
    heading, *rows, latency, decisions, summary = exported.out.splitlines()
    assert heading.split()[:4] == ["model", "mAP", "AP50", "AP75"]
    floats = len(float_precisions())
    names = [row.split()[0] for row in rows]
    assert names == [*["float"] * floats, "minmax", "nncf", "measured"]
    assert rows[0].split()[1:4] == ["46.98", "78.61", "51.12"]
    assert [row.split()[-2] for row in rows][floats:] == ["int8"] * 3
    assert (
        f"of f32 (medians of {LATENCY_ROUNDS} inferences in turns, and of their ratios)" in latency
    )
    assert re.match(r"\d+ convolutions split, \d+ tensors left in float, (9[5-9]|100)", decisions)
    assert re.match(r"agreement with float \d\d\.\d% on \d+ other images \(expected loss ", summary)
    assert summary.endswith(f"written to {exported.directory.name}")
    assert re.match(r"latency \d+\.\d\d ms in INT8, \d+\.\d\d ms in the fastest float, ", latency)


def test_log_says_what_is_being_done_and_nothing_alarming(exported: Exported) -> None:
    """On a pipe a stage is one line: no bars, no control characters.

    A busy machine is told, and what it makes of latencies.
    """
    timed = ("processes were busy on", "gains little or nothing over")
    lines = [line for line in exported.err.splitlines() if not any(one in line for one in timed)]
    assert "measured: observing (100)" in lines
    assert len(lines) == len(set(lines))
    for word in ("warning", "error", "Warning", "\x1b", "\r"):
        assert not any(word in line for line in lines)


def test_results_as_json(exported: Exported) -> None:
    document = exported.document
    keys = "agreement data doubts fastest_float int8_share latency_ms load models nearly_as_fast"
    assert sorted(document) == [*keys.split(), "of_f32", "output", "speedup"]
    assert document["fastest_float"] in float_precisions()
    latency = document["latency_ms"]
    assert 0 < latency["fastest_float"] <= latency["float"]
    data = {"split": "test", "images": 72, "damaged_images": 0, "damaged_files": []}
    assert data.items() <= document["data"].items()
    calibration = {"calibration_split": "train", "calibration_images": 100}
    assert calibration.items() <= document["data"].items()
    assert document["output"] == exported.directory.name
    count = len(float_precisions()) + 3
    assert [list(row) for row in document["models"]] == [EVAL_KEYS] * count
    assert [row["images"] for row in document["models"]] == [72] * count
    float_mb, *_, int8_mb = (row["size_mb"] for row in document["models"])
    assert int8_mb < float_mb / 3
    assert 80 < document["agreement"] <= 100


def test_directory_is_complete_and_alone(exported: Exported) -> None:
    """The default name is the checkpoint's, in the working directory."""
    files = {path.name for path in exported.directory.iterdir()}
    assert files == {"bccd_yolov6n.xml", "bccd_yolov6n.bin", "metadata.yaml", "report.html"}
    beside = {path.name for path in exported.folder.iterdir()}
    assert beside == {exported.directory.name, "results.json"}


def test_metadata_tells_how_the_model_came_to_be(exported: Exported) -> None:
    metadata = yaml.safe_load((exported.directory / "metadata.yaml").read_text())
    assert metadata["names"] == {0: "RBC", 1: "WBC", 2: "Platelets"}
    assert (metadata["task"], metadata["stride"], metadata["imgsz"]) == ("detect", 32, [320, 320])
    details = metadata["detq"]
    assert details["recipe"]["name"] == "measured"
    assert details["recipe"]["calibration_images"] == details["calibration"]["images"] == 100
    assert details["calibration"]["skipped"] == []
    assert len(details["calibration"]["fingerprint"]) == 64
    assert {"detq", "openvino", "nncf"} <= set(details["versions"])
    assert details["split_layers"] == []
    # Zero points that were given up may take some of what float won.
    mixed = details["mixed_precision"]
    assert mixed["output_error"] < 1.05 * mixed["output_error_in_int8"]
    assert details["agreement_images_held_back"] is True
    assert set(details["split_layers"]) <= set(details["reparameterized"])
    assert details["int8_share_of_convolution_macs"] >= 0.95
    for decision in details["activations"]:
        if decision["method"] == "float":
            assert (decision["low"], decision["high"]) == ([], [])
        else:
            assert max(decision["low"]) <= 0 < min(decision["high"])
    rows = exported.document["models"]
    for scores in details["measured"]["models"].values():
        assert scores.pop("latency_ms") > 0
        assert min(scores.pop("speedup"), scores.pop("of_f32")) > 0
        assert 4 < scores.pop("size_mb") < 19
    measured = dict(details["measured"])
    assert measured.pop("cores") >= 1
    assert measured.pop("load") is None or details["measured"]["load"] >= 0
    assert measured.pop("nearly_as_fast") in (None, *float_precisions())
    assert measured == {
        "split": "test",
        "preset": "yolov6",
        "calibration_images_in_split": 0,
        "models": {
            row["model"]: {key: row[key] for key in ("map", "map50", "map75")} for row in rows
        },
    }


def test_report_is_one_page_with_the_figures(exported: Exported) -> None:
    page = (exported.directory / "report.html").read_text(encoding="utf-8")
    assert "46.98" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_exported_model_predicts(
    detq: Command, exported: Exported, shared: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for path in sorted((shared / "data/bccd/images/test").iterdir())[:3]:
        (tmp_path / "photos" / path.name).symlink_to(path)
    outcome = detq("predict", exported.directory, "photos", "--draw", "--json", "found.json")
    assert outcome.status == 0
    images = read_json(tmp_path / "found.json")["images"]
    assert [image["file"] for image in images] == [
        line.split(":")[0] for line in outcome.out.splitlines()
    ]
    for image in images:
        assert {detection["label"] for detection in image["detections"]} <= {
            "RBC",
            "WBC",
            "Platelets",
        }
        scores = [detection["score"] for detection in image["detections"]]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) >= 5
        assert min(scores) > 0.25
        picture = tmp_path / "predictions" / Path(image["file"]).name
        assert read_image_bgr(picture).shape == read_image_bgr(tmp_path / image["file"]).shape


def test_report_says_what_was_lost_and_where(exported: Exported) -> None:
    page = (exported.directory / "report.html").read_text(encoding="utf-8")
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [
        *("Which class pays", "Precision, recall and F1", "What is taken for what"),
        *("What was found differently", "Where it is lost", "How", "Weights", "Activation ranges"),
    ]
    assert page.count("data:image/") == 3
    assert page.count('<rect class="mark truth"') > 10
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)  # self-contained
    assert re.search(r"on \d+ images that calibration did not see", page)
    assert "only in float" in page


def test_float_model_is_inspected_and_the_exported_one_refused(
    detq: Command, exported: Exported, bccd_float: Path, tmp_path: Path
) -> None:
    outcome = detq("inspect", bccd_float, "--json", "reports/layers.json")
    assert outcome.status == 0
    layers = read_json(tmp_path / "reports/layers.json")["layers"]
    marked = [layer for layer in layers if layer["reparameterized"]]
    assert len(marked) == 35
    assert np.median([layer["center_to_surround"] for layer in marked]) > 5
    assert all(layer["cfws_db"] > layer["plain_db"] for layer in marked)
    assert len(outcome.out.splitlines()) == 1 + len(layers)
    assert detq("inspect", exported.directory).failed_well


def test_bench_of_float_and_int8(
    detq: Command, exported: Exported, bccd_float: Path, tmp_path: Path
) -> None:
    pictures = exported.directory.parent / "bench_pictures"
    write_image(pictures / "grey.png", np.full((240, 320, 3), 128, np.uint8))
    options = ("--rounds", "2", "--bursts", "1", "--layers", "--json", "b.json")
    options += ("--source", pictures, "--streams", "1", "--no-pin")
    outcome = detq("bench", bccd_float, exported.directory, *options)
    assert outcome.status == 0
    document = read_json(tmp_path / "b.json")
    first, *others = document["models"]
    floats = len(float_precisions())
    assert [row["model"] for row in document["models"]] == [
        *[str(bccd_float)] * floats,
        str(exported.directory),
    ]
    assert list(first) == [
        *("model", "latency_ms", "latency_p90_ms", "latency_p99_ms", "speedup", "of_f32"),
        *("float_precision", "precision", "int8_share", "macs_per_s", "size_mb"),
        *("images_per_s", "requests", "device"),
    ]
    assert first["of_f32"] == 1
    assert 1 in [row["speedup"] for row in document["models"][:floats]]
    assert others[-1]["precision"] == "int8"
    assert first["images_per_s"] > 0
    exact, int8 = document["programs"]
    assert (exact["program"], int8["model"]) == ("detq", str(exported.directory))
    assert int8["end_to_end_per_s"] > 0
    assert document["machine"]["int8_macs_per_s"] > first["macs_per_s"] > 0
    times = document["layers"][str(exported.directory)]
    assert sum(layer["share"] for layer in times) == pytest.approx(1)
    convolutions = [layer for layer in times if layer["kind"] == "Convolution"]
    precisions = Counter(layer["precision"] for layer in convolutions)
    assert precisions.most_common(1)[0][0] == "int8"
    assert first["precision"] == "fp32"
    assert first["int8_share"] == 0
    assert others[-1]["int8_share"] >= 0.95
    assert outcome.out.splitlines()[0].endswith("GMAC/s")
    assert "slowest" in outcome.out


def test_real_model_keeps_its_accuracy(exported: Exported) -> None:
    """The figures of the README, within what other threads and machines move them."""
    document = exported.document
    rows = {row["model"]: row["map"] for row in document["models"]}
    assert rows["float"] == pytest.approx(46.98, abs=0.1)
    assert rows["measured"] >= rows["float"] - 0.6
    assert rows["measured"] > rows["nncf"]
    assert document["agreement"] > 92
    assert document["int8_share"] >= 0.95


def test_what_was_exported_scores_as_measured(exported: Exported, shared: Path) -> None:
    result = api.evaluate(exported.directory, data=shared / "data/bccd/data.yaml", split="test")
    row = next(row for row in exported.document["models"] if row["model"] == "measured")
    assert (result.map, result.map50) == (
        pytest.approx(row["map"], abs=0.05),
        pytest.approx(row["map50"], abs=0.05),
    )
    assert (result.precision, result.images) == ("int8", 72)
