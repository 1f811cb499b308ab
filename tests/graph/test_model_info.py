"""OpenVINO's Model API opens an exported directory with nothing but its path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

import detq
from detq.artifact import write_artifact
from detq.graph.detector_graph import DetectorGraph
from detq.graph.model_info import with_model_info
from detq.opencv import cv2
from detq.records import Fit

SIDE = 320


def _read(model: ov.Model, key: str) -> str:
    return str(model.get_rt_info(["model_info", key]).astype(str))


def test_model_api_finds_the_same_boxes(tmp_path: Path) -> None:
    """At the input's own size: how it resizes other images is its own affair."""
    pytest.importorskip("model_api")
    from model_api.adapters import OpenvinoAdapter
    from model_api.models import Model

    graph = detq.load("digits_yolov6n", imgsz=SIDE)
    write_artifact(graph, tmp_path / "digits_openvino_model")
    (xml,) = (tmp_path / "digits_openvino_model").glob("*.xml")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    adapter = OpenvinoAdapter(ov.Core(), str(xml), device="CPU", plugin_config=settings)
    sample = detq.sample_picture(detq.detector(graph))
    assert sample is not None
    image = cv2.resize(cv2.imread(str(sample)), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    seen, found = Model.create_model(adapter)(image), detq.detector(graph).detect(image)
    assert len(found) > 3
    rows = sorted(zip(seen.labels.tolist(), seen.bboxes.tolist(), strict=True))
    expected = sorted(
        zip(found.class_ids.tolist(), found.boxes_xyxy_px.round().tolist(), strict=True)
    )
    assert [label for label, _ in rows] == [label for label, _ in expected]
    np.testing.assert_allclose([box for _, box in rows], [box for _, box in expected], atol=1)
    assert set(seen.label_names) <= set(graph.spec.class_names)


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        ("yolov6", ("fit_to_window_letterbox", "114")),
        ("corner-black", ("fit_to_window", "0")),
        ("stretch", ("standard", "0")),
    ],
)
def test_how_images_are_brought_to_the_input(
    colour_graph: DetectorGraph, fit: Fit, expected: tuple[str, str]
) -> None:
    spec = replace(colour_graph.spec, fit=fit, class_names=("fire truck", "cat", "a b c"))
    named = with_model_info(colour_graph.model, spec, confidence=0.25, iou=0.45)
    assert (_read(named, "resize_type"), _read(named, "pad_value")) == expected
    assert _read(named, "labels") == "fire_truck cat a_b_c"
    assert (
        named.get_rt_info(["detq", "fit"]).astype(str) == fit
    )  # programs without detq letterbox by it
    assert not colour_graph.model.has_rt_info(["model_info", "labels"])


def test_a_graph_from_pixels_asks_for_pixels(colour_graph: DetectorGraph) -> None:
    """Nobody is to turn or scale what the graph turns and scales by itself."""
    named = with_model_info(
        colour_graph.model, colour_graph.spec, confidence=0.25, iou=0.45, takes="pixels"
    )
    assert (_read(named, "reverse_input_channels"), _read(named, "scale_values")) == ("False", "1")
    assert str(named.get_parameters()[0].get_layout()) == "[N,H,W,C]"
    boxes = with_model_info(
        colour_graph.model,
        colour_graph.spec,
        confidence=0.25,
        iou=0.45,
        takes="pixels-of-any-size",
    )
    assert not boxes.has_rt_info(["model_info", "model_type"])


def test_what_suppresses_nothing_says_so(colour_graph: DetectorGraph) -> None:
    spec = replace(colour_graph.spec, end_to_end=True)
    named = with_model_info(colour_graph.model, spec, confidence=0.25, iou=0.45)
    assert _read(named, "iou_threshold") == "1.0"


@pytest.mark.parametrize("name", ["traffic light", "tab\there", "no\xa0break", "new\nline", ""])
def test_labels_are_as_many_as_classes(colour_graph: DetectorGraph, name: str) -> None:
    """A tab in a name made two labels of one, and Model API refused the model."""
    spec = replace(colour_graph.spec, class_names=(name, "green", "blue"))
    model = with_model_info(colour_graph.model, spec, confidence=0.25, iou=0.45)
    labels = model.get_rt_info(["model_info", "labels"]).astype(str)
    assert len(labels.split()) == 3
