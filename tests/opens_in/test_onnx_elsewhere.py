"""Exported ONNX files in programs of others, with nothing but their path."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino as ov
import pytest
from pairing import worst_px

import detq
from detq.graph.detector_graph import DetectorGraph
from detq.graph.execute import compile_exact

SIDE = 160
APART = {"float": 0.06, "int8": 0.12}
"""How far scores may be. ONNX's quantizers round what lies between two steps otherwise, which moves
scores of INT8 by half of that: no more than INT8 is from float.
"""


@pytest.fixture(scope="module")
def float_file(float_graph: DetectorGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detq.export(float_graph, tmp_path_factory.mktemp("onnx") / "float.onnx")


@pytest.fixture(scope="module")
def int8_file(int8_graph: DetectorGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "int8.onnx"
    return detq.export(int8_graph, path, format="onnx-qdq")


def test_opencv_computes_the_same(
    float_file: Path, float_graph: DetectorGraph, scenes: list[detq.ImageBGR]
) -> None:
    """By the layers of OpenCV 5 and, where it still has them, those of OpenCV 4."""
    tensor, _ = detq.detector(float_graph).preprocess.apply(scenes[0])
    expected = np.asarray(compile_exact(float_graph.model)([tensor])[0])
    engines = [
        getattr(cv2.dnn, name)
        for name in ("ENGINE_NEW", "ENGINE_CLASSIC")
        if hasattr(cv2.dnn, name)
    ]
    for arguments in [(engine,) for engine in engines] or [()]:
        network = cv2.dnn.readNetFromONNX(str(float_file), *arguments)
        network.setInput(tensor, "images")
        np.testing.assert_allclose(network.forward(), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_model_api_finds_the_same_boxes(
    kind: str,
    float_file: Path,
    int8_file: Path,
    float_graph: DetectorGraph,
    int8_graph: DetectorGraph,
    scenes: list[detq.ImageBGR],
) -> None:
    """At the input's own size; its boxes are whole pixels."""
    pytest.importorskip("model_api")
    from model_api.adapters import OpenvinoAdapter
    from model_api.models import Model

    path, graph = (float_file, float_graph) if kind == "float" else (int8_file, int8_graph)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    adapter = OpenvinoAdapter(ov.Core(), str(path), device="CPU", plugin_config=settings)
    model = Model.create_model(adapter)
    for scene in scenes:
        image = cv2.resize(scene, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        seen = model(image)
        found = {
            "boxes": seen.bboxes.tolist(),
            "scores": seen.scores.tolist(),
            "class_ids": seen.labels.tolist(),
        }
        expected = detq.detector(graph, confidence=0.25, iou=0.45).detect(image).columns()
        assert worst_px(found, expected, confidence=0.25, apart=APART[kind]) < 1.5
    assert set(seen.label_names) <= set(graph.spec.class_names)


def test_onnx_runtime_hands_on_what_the_model_is(
    int8_file: Path, int8_graph: DetectorGraph
) -> None:
    session = onnxruntime.InferenceSession(int8_file, providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    assert said["names"] == str(dict(enumerate(int8_graph.spec.class_names)))
    assert (said["task"], said["stride"], said["imgsz"]) == ("detect", "32", f"[{SIDE}, {SIDE}]")
    assert said["model_info model_type"] == "YOLOv8"
    assert said["model_info labels"] == " ".join(int8_graph.spec.class_names)
    assert said["model_info resize_type"] == "fit_to_window_letterbox"
    assert said == {entry.key: entry.value for entry in onnx.load(int8_file).metadata_props}
