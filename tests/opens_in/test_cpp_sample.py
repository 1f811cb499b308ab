"""The C++ sample, built from its sources, against ``detq predict``."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import openvino
import pytest
from pairing import worst_px

import detq
from detq.artifact import write_artifact
from detq.data.letterbox import FITS
from detq.graph.detector_graph import DetectorGraph
from detq.records import Fit

SOURCES = Path(__file__).parents[2] / "demo/cpp"
HEADERS = [Path(root) / "opencv4/opencv2/imgcodecs.hpp" for root in ("/usr/include", "/usr/local")]
OFF_PX = 0.2
"""Debian's OpenCV is not the wheel's: boxes 0.05 px apart were seen, with cubic interpolation."""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cmake") is None or shutil.which("g++") is None:
        pytest.skip("needs cmake and g++")
    if not any(header.is_file() for header in HEADERS):
        pytest.skip("needs OpenCV's headers: libopencv-{core,imgproc,imgcodecs}-dev")
    build = tmp_path_factory.mktemp("cpp")
    wheel = Path(openvino.__file__).parent / "cmake"
    for command in (
        ["cmake", "-S", str(SOURCES), "-B", str(build), f"-DOpenVINO_DIR={wheel}"],
        ["cmake", "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr, done.stderr
    return build / "detq_detect"


@pytest.mark.parametrize(
    ("fit", "is_int8"), [*((fit, False) for fit in FITS), ("yolov6", True)], ids=str
)
def test_boxes_are_those_of_predict(
    sample: Path,
    float_graph: DetectorGraph,
    int8_graph: DetectorGraph,
    pictures: list[Path],
    tmp_path: Path,
    fit: Fit,
    is_int8: bool,
) -> None:
    graph = int8_graph if is_int8 else float_graph
    graph = DetectorGraph(graph.model, replace(graph.spec, fit=fit))
    directory = tmp_path / "digits_openvino_model"
    write_artifact(graph, directory)
    done = subprocess.run(
        [sample, directory, *pictures], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == [str(path) for path in pictures]
    output = tmp_path / "rows"
    expected = detq.predict_many(directory, [str(path) for path in pictures], output=output).rows()
    off_px = [
        worst_px(row, theirs, confidence=0.25, apart=0.03)
        for row, theirs in zip(rows, expected, strict=True)
    ]
    assert sum(len(row["boxes"]) for row in rows) > 40
    assert max(off_px) < OFF_PX


def test_what_is_no_model_is_one_line(sample: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sample, tmp_path, tmp_path / "x.png"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}: holds no .xml; pass a directory that detq wrote\n"
