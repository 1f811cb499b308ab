from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from detq.data.letterbox import Letterbox, Preprocess
from detq.errors import DetqError
from detq.runtime.postprocess import (
    EVALUATION,
    PREDICTION,
    PostprocessOptions,
    postprocess,
    suppress,
)

Floats = npt.NDArray[np.float32]
SAME_SIZE: Letterbox = Preprocess((640, 640)).plan((640, 640))

# Corners on a coarse grid: equal boxes, touching boxes and boxes without area are frequent.
grid_boxes = hnp.arrays(
    np.int64, st.tuples(st.integers(0, 40), st.just(4)), elements=st.integers(0, 6)
)


def _reference_suppress(boxes: Floats, iou: float) -> list[int]:
    """Greedy suppression, one pair at a time, with torchvision's arithmetic."""
    kept: list[int] = []
    for index, box in enumerate(boxes):
        for other in (boxes[other] for other in kept):
            width = max(np.float32(0), min(box[2], other[2]) - max(box[0], other[0]))
            height = max(np.float32(0), min(box[3], other[3]) - max(box[1], other[1]))
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (other, box)]
            union = areas[0] + areas[1] - width * height
            if union > 0 and width * height / union > iou:
                break
        else:
            kept.append(index)
    return kept


def _suppress(boxes: Floats, *, iou: float, limit: int) -> npt.NDArray[np.int64]:
    """Of boxes that come best first."""
    return suppress(boxes, -np.arange(len(boxes), dtype=np.float32), iou=iou, limit=limit)


def _predictions(
    *candidates: tuple[tuple[float, float, float, float], tuple[float, ...]],
) -> Floats:
    """(cx, cy, w, h), class scores -> [4 + nc, N]."""
    return np.array([[*box, *scores] for box, scores in candidates], np.float32).T


def test_without_an_iou_nothing_is_suppressed_and_the_best_stay() -> None:
    box = (100.0, 100.0, 50.0, 50.0)
    predictions = _predictions((box, (0.9, 0.6)), (box, (0.8, 0.1)), (box, (0.2, 0.7)))
    options = PostprocessOptions(confidence=0.5, iou=None, max_detections=3)
    found = postprocess(predictions, SAME_SIZE, options)
    np.testing.assert_array_equal(found.scores, np.float32([0.9, 0.8, 0.7]))
    assert found.class_ids.tolist() == [0, 0, 1]


@given(grid_boxes, st.sampled_from([0.0, 0.25, 0.45, 0.5, 0.65, 1.0]))
def test_suppression_is_the_greedy_one(corners: npt.NDArray[np.int64], iou: float) -> None:
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1).astype(np.float32)
    assert _suppress(boxes, iou=iou, limit=1000).tolist() == _reference_suppress(boxes, iou)


@pytest.mark.parametrize("seed", range(3))
def test_suppression_of_many_boxes_is_the_greedy_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    start = random.uniform(0, 300, (300, 2))
    boxes = np.concatenate([start, start + random.uniform(0, 120, (300, 2))], 1).astype(np.float32)
    expected = _reference_suppress(boxes, 0.65)
    assert _suppress(boxes, iou=0.65, limit=1000).tolist() == expected
    assert _suppress(boxes, iou=0.65, limit=50).tolist() == expected[:50]


@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_detections_are_the_greedy_ones_of_each_class(count: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    predictions = np.empty((4 + classes, count), np.float32)
    predictions[:2] = random.integers(100, 140, (2, count))
    predictions[2:4] = random.integers(0, 60, (2, count))
    predictions[4:] = random.integers(0, 8, (classes, count)) / 10  # ties
    found = postprocess(predictions, SAME_SIZE, EVALUATION)
    assert (np.diff(found.scores) <= 0).all()
    for class_id in range(classes):
        scores = predictions[4 + class_id]
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > 0.03]
        centre, half = predictions[:2, order].T, predictions[2:4, order].T / 2
        boxes = np.concatenate([centre - half, centre + half], 1)
        # Where the boxes of a class end up in float32 before they are compared.
        kept = _reference_suppress(boxes + np.float32(class_id * 4096), 0.65)
        mine = found.class_ids == class_id
        np.testing.assert_array_equal(found.boxes_xyxy_px[mine], boxes[kept])
        np.testing.assert_array_equal(found.scores[mine], scores[order][kept])


def test_score_must_exceed_the_confidence() -> None:
    box = (50.0, 50.0, 20.0, 20.0)
    just = np.float32(0.03)
    scores = (just, np.nextafter(just, np.float32(1)))
    predictions = _predictions((box, (float(scores[0]), float(scores[1]))))
    found = postprocess(predictions, SAME_SIZE, EVALUATION)
    assert found.class_ids.tolist() == [1]


def test_one_place_reports_several_classes_only_in_evaluation() -> None:
    predictions = _predictions(((50, 50, 20, 20), (0.5, 0.9)), ((200, 50, 20, 20), (0.8, 0.1)))
    evaluated = postprocess(predictions, SAME_SIZE, EVALUATION)
    assert evaluated.class_ids.tolist() == [1, 0, 0, 1]
    np.testing.assert_array_equal(evaluated.boxes_xyxy_px[0], [40, 40, 60, 60])
    predicted = postprocess(predictions, SAME_SIZE, PREDICTION)
    assert predicted.class_ids.tolist() == [1, 0]


def test_at_most_300_detections_the_best() -> None:
    side = np.arange(20) * 30 + 15
    centres = np.stack(np.meshgrid(side, side)).reshape(2, -1)
    scores = np.random.default_rng(0).permutation(400) / 1000 + 0.1
    predictions = np.concatenate([centres, np.full((2, 400), 20), [scores]]).astype(np.float32)
    found = postprocess(predictions, SAME_SIZE, EVALUATION)
    np.testing.assert_array_equal(found.scores, np.sort(predictions[4])[:99:-1])


@given(st.integers(1, 200), st.integers(1, 4), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_limit_cuts_the_detections_and_changes_none(
    count: int, limit: int, multi_label: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    predictions = np.empty((6, count), np.float32)
    predictions[:2] = random.integers(100, 104, (2, count))  # many suppress one another
    predictions[2:4] = random.choice([10, 60], (2, count))
    predictions[4:] = random.integers(0, 30, (2, count)) / 40  # ties
    options = PostprocessOptions(confidence=0.1, iou=0.5, multi_label=multi_label)
    every = postprocess(predictions, SAME_SIZE, options)
    some = postprocess(predictions, SAME_SIZE, replace(options, max_detections=limit))
    np.testing.assert_array_equal(some.boxes_xyxy_px, every.boxes_xyxy_px[:limit])
    np.testing.assert_array_equal(some.scores, every.scores[:limit])
    np.testing.assert_array_equal(some.class_ids, every.class_ids[:limit])


def test_only_the_best_30000_candidates_compete() -> None:
    count = 40_000
    predictions = np.zeros((5, count), np.float32)
    predictions[:2] = np.arange(count)[None] % 7
    predictions[2:4] = 50
    predictions[4] = 0.9
    predictions[:, -1] = (500, 500, 50, 50, 0.5)  # alone, but behind 39,999 better ones
    found = postprocess(predictions, SAME_SIZE, EVALUATION)
    assert found.boxes_xyxy_px.max() < 100


def test_nothing_found_is_an_empty_value() -> None:
    found = postprocess(np.zeros((6, 10), np.float32), SAME_SIZE, EVALUATION)
    assert len(found) == 0
    assert found.boxes_xyxy_px.dtype == np.float32


def test_boxes_are_in_pixels_of_the_original() -> None:
    letterbox = Preprocess((320, 320)).plan((480, 640))
    found = postprocess(_predictions(((160, 160, 40, 20), (0.9,))), letterbox, EVALUATION)
    np.testing.assert_allclose(found.boxes_xyxy_px, [[280, 220, 360, 260]])


@pytest.mark.parametrize(
    "options", [{"confidence": 1}, {"iou": 1.5}, {"max_detections": 0}], ids=str
)
def test_impossible_options_are_an_error(options: dict[str, float]) -> None:
    with pytest.raises(DetqError, match="post-processing"):
        PostprocessOptions(**{"confidence": 0.1, "iou": 0.5, **options})  # type: ignore[arg-type]
