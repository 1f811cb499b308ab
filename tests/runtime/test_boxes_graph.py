"""One graph from pixels to boxes against the detector."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openvino import opset15 as ops

import detq
from detq.contract import INPUT, SCORES
from detq.data.letterbox import FITS, Letterbox
from detq.errors import ConfigError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.execute import compile_exact
from detq.opencv import cv2
from detq.records import Fit, ModelSpec
from detq.runtime.boxes_graph import detections_in_graph, with_boxes
from detq.runtime.detector import Detector
from detq.runtime.letterbox_graph import PlaceInGraph, whole
from detq.runtime.postprocess import PREDICTION, PostprocessOptions, postprocess

LETTERBOX = Letterbox((300, 400), (60, 80), pad_top=10, pad_left=0)
END_TO_END = replace(PREDICTION, iou=None, multi_label=True, max_detections=20)


@cache
def _tail(options: PostprocessOptions) -> ov.CompiledModel:
    predictions = ops.parameter([1, 7, 60], np.float32)
    place = PlaceInGraph(
        *(whole(side) for side in (*LETTERBOX.original_hw, *LETTERBOX.resized_hw)),
        pad_top=whole(LETTERBOX.pad_top),
        pad_left=whole(LETTERBOX.pad_left),
    )
    found = detections_in_graph(predictions, place, options)
    return compile_exact(ov.Model([ops.result(found)], [predictions], "tail"))


@pytest.mark.parametrize("options", [PREDICTION, END_TO_END], ids=["suppresses", "end to end"])
@given(seed=st.integers(0, 2**32 - 1), levels=st.sampled_from([4, 1000]))
def test_suppression_is_the_detectors(options: PostprocessOptions, seed: int, levels: int) -> None:
    """Few levels make equal scores, some of them exactly the confidence."""
    random = np.random.default_rng(seed)
    boxes = random.integers(1, 80, (4, 60)).astype(np.float32)
    scores = (random.integers(0, levels + 1, (3, 60)) / np.float32(levels)).astype(np.float32)
    predictions = np.concatenate([boxes, scores])
    found = np.asarray(_tail(options)([predictions[None]])[0])
    expected = postprocess(predictions, LETTERBOX, options)
    np.testing.assert_array_equal(found[:, 4], expected.scores)
    np.testing.assert_array_equal(found[:, 5], expected.class_ids)
    np.testing.assert_allclose(found[:, :4], expected.boxes_xyxy_px, rtol=1e-5, atol=1e-4)


@pytest.fixture(scope="module")
def digits() -> DetectorGraph:
    return detq.load("digits_yolov6n", imgsz=160)


@pytest.mark.parametrize("fit", FITS)
def test_boxes_are_the_detectors(digits: DetectorGraph, fit: Fit) -> None:
    graph = DetectorGraph(digits.model, replace(digits.spec, fit=fit))
    detector = Detector(graph, postprocess=PREDICTION)
    sample = detq.sample_picture(detector)
    assert sample is not None
    whole_page = cv2.imread(str(sample))
    compiled = compile_exact(with_boxes(graph))
    # Halved, or enlarged by a whole number, the grey levels are those of OpenCV.
    for height, width in ((320, 320), (240, 320), (160, 160)):
        image = cv2.resize(whole_page, (width, height), interpolation=cv2.INTER_AREA)
        found = np.asarray(compiled([image[None]])[0])
        expected = detector.detect(image)
        assert len(found) == len(expected) > 5
        if fit == "stretch" and height != width:
            continue  # a third of the levels is off by one: scores change places
        np.testing.assert_allclose(found[:, :4], expected.boxes_xyxy_px, atol=0.1)
        np.testing.assert_allclose(found[:, 4], expected.scores, atol=1e-3)
        np.testing.assert_array_equal(found[:, 5], expected.class_ids)


def test_sixteen_bit_floats_do_not_move_boxes(colour_graph: DetectorGraph) -> None:
    """Coordinates above 256 are not whole numbers in bfloat16."""
    compiled = ov.Core().compile_model(
        with_boxes(colour_graph), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"}
    )
    image = np.zeros((1000, 1537, 3), np.uint8)
    image[:, :768, 2] = 255
    ((*box, score, class_id),) = np.asarray(compiled([image[None]])[0])
    expected = detq.detector(colour_graph, confidence=0.25).detect(image)
    np.testing.assert_allclose(box, expected.boxes_xyxy_px[0], atol=1e-3)
    assert class_id == 0
    assert score == pytest.approx(expected.scores[0], abs=0.01)


def test_a_classifier_has_no_boxes() -> None:
    image = ops.parameter([1, 3, 32, 64], np.float32)
    model = ov.Model([ops.reduce_mean(image, ops.constant([2, 3]))], [image])
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({SCORES})
    spec = ModelSpec("shades", "test", ("red", "green", "blue"), (32,), (32, 64), task="classify")
    with pytest.raises(ConfigError, match="shades: finds no boxes"):
        with_boxes(DetectorGraph(model, spec))
