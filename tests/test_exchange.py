from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import supervision
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from detq import Detections, exchange
from detq.errors import DataError, MissingLibraryError
from detq.records import COCO_IDS

NAMES = ("cat", "dog", "owl")
IMAGE_HW = (480, 640)


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    """Best first, on whole pixels."""
    side = st.integers(0, 400)
    rows = draw(st.lists(st.tuples(side, side, side, side, st.integers(0, 2)), max_size=6))
    boxes = [[x, y, x + w, y + h] for x, y, w, h, _ in rows]
    scores = sorted((draw(st.floats(0, 1, width=32)) for _ in rows), reverse=True)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array([row[4] for row in rows], np.int64),
    )


def assert_same(found: Detections, expected: Detections) -> None:
    np.testing.assert_allclose(found.boxes_xyxy_px, expected.boxes_xyxy_px, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)


@given(detections())
def test_supervision_and_back(found: Detections) -> None:
    theirs = exchange.to_supervision(found, NAMES)
    assert isinstance(theirs, supervision.Detections)
    assert list(theirs["class_name"]) == [NAMES[each] for each in found.class_ids]
    assert_same(exchange.from_supervision(theirs), found)


@given(detections(), st.sampled_from([None, COCO_IDS, (7, 5, 9)]))
def test_coco_and_back(found: Detections, category_ids: tuple[int, ...] | None) -> None:
    results = exchange.to_coco(found, 42, category_ids)
    again = exchange.from_coco(results, category_ids)
    assert set(again) == ({42} if len(found) else set())
    if len(found):
        assert_same(again[42], found)


def test_coco_reads_the_results() -> None:
    found = Detections(
        np.array([[10, 20, 40, 60]], np.float32), np.array([0.5], np.float32), np.array([1])
    )
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 3}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [],
    }
    truth.createIndex()
    (result,) = truth.loadRes(exchange.to_coco(found, 3)).dataset["annotations"]
    assert (result["category_id"], result["bbox"], result["area"]) == (2, [10, 20, 30, 40], 1200)


def test_what_others_leave_out() -> None:
    """Ground truth has no scores, and order is the best first whatever it was."""
    annotation = {"image_id": "a", "category_id": 2, "bbox": [1, 2, 3, 4]}
    found = exchange.from_coco([{**annotation, "score": 0.25}, annotation])["a"]
    assert found.scores.tolist() == [1, 0.25]
    assert len(exchange.from_supervision(supervision.Detections.empty())) == 0
    bare = supervision.Detections(xyxy=np.array([[1.0, 2, 3, 4]]))
    with pytest.raises(DataError, match="no confidence or no class_id"):
        exchange.from_supervision(bare)


@pytest.mark.parametrize(
    "result",
    [
        {"image_id": 1, "category_id": 1},
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3]},
        {"image_id": 1, "category_id": 1, "bbox": "1234"[:3]},
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": "high"},
        {"image_id": 1, "category_id": 0, "bbox": [1, 2, 3, 4]},
        {"image_id": 1, "category_id": None, "bbox": [1, 2, 3, 4]},
    ],
)
def test_what_is_no_result_is_one_line(result: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"^COCO results: [^\n]+$"):
        exchange.from_coco([result])


def test_classes_without_name_or_category() -> None:
    found = Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.array([5]))
    with pytest.raises(DataError, match="class 5: has no name among 3"):
        exchange.to_supervision(found, NAMES)
    with pytest.raises(DataError, match="class 5: has no category id among 2"):
        exchange.to_coco(found, 1, (1, 2))
    with pytest.raises(DataError, match="category 3 belongs to no class"):
        exchange.from_coco([{"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]}], (1, 2))


def test_without_the_library_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int))
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(MissingLibraryError, match="pip install fiftyone"):
        exchange.to_fiftyone(nothing, NAMES, IMAGE_HW)


@given(detections())
def test_fiftyone_and_back(found: Detections) -> None:
    """With FiftyOne where it is installed; it asks for a database when it is imported."""
    fiftyone = pytest.importorskip("fiftyone")
    theirs = exchange.to_fiftyone(found, NAMES, IMAGE_HW)
    assert isinstance(theirs, fiftyone.Detections)
    assert_same(exchange.from_fiftyone(theirs, NAMES, IMAGE_HW), found)


def test_labels_of_fiftyone_are_classes() -> None:
    one = SimpleNamespace(label="emu", bounding_box=[0, 0, 1, 1], confidence=None)
    with pytest.raises(DataError, match="'emu' is none of the classes"):
        exchange.from_fiftyone(SimpleNamespace(detections=[one]), NAMES, IMAGE_HW)
    one.label = "owl"
    found = exchange.from_fiftyone(SimpleNamespace(detections=[one]), NAMES, IMAGE_HW)
    assert (found.boxes_xyxy_px.tolist(), found.scores.tolist()) == ([[0, 0, 640, 480]], [1])
