from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from detq.errors import DataError
from detq.evaluation.agreement import agreement
from detq.evaluation.coco_map import CocoScores, coco_detections, score_detections
from detq.records import Detections

BOXES = [[0, 0, 100, 100], [200, 0, 300, 100], [0, 200, 20, 220]]


def _detections(
    boxes: list[list[float]], class_ids: list[int], scores: list[float] | None = None
) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores if scores is not None else [0.9] * len(boxes), np.float32),
        np.array(class_ids, np.int64),
    )


def _truth() -> dict[str, Any]:
    """One image with two objects of class 0 (large) and one of class 1 (small)."""
    return {
        "images": [{"id": 1}],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "ox"}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": category,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            for number, (category, (x1, y1, x2, y2)) in enumerate(
                zip((0, 0, 1), BOXES, strict=True), start=1
            )
        ],
    }


def _entries(found: Detections) -> list[dict[str, Any]]:
    return coco_detections([1], [found], category_ids=[0, 1, 2])


def _maps(scores: CocoScores) -> dict[str, float | None]:
    return {name: one.map for name, one in scores.per_class.items()}


def test_perfect_detections_score_100_and_absent_kinds_none() -> None:
    scores = score_detections(_truth(), _entries(_detections(BOXES, [0, 0, 1])))
    assert (scores.map, scores.map50, scores.map75) == (100, 100, 100)
    assert scores.map_small == pytest.approx(100)
    assert (scores.map_medium, scores.map_large) == (None, 100)
    assert _maps(scores) == {"cat": 100, "dog": pytest.approx(100), "ox": None}


def test_nothing_found_scores_0() -> None:
    scores = score_detections(_truth(), [])
    assert (scores.map, scores.map_large, scores.map_medium) == (0, 0, None)


def test_missed_class_and_missed_object_lower_their_class() -> None:
    scores = score_detections(_truth(), _entries(_detections(BOXES[:1], [0])))
    # Recall 0.5 at precision 1: 51 of the 101 recall points.
    assert _maps(scores) == {"cat": pytest.approx(100 * 51 / 101), "dog": 0, "ox": None}
    assert {name: one.mar100 for name, one in scores.per_class.items()} == {
        **{"cat": 50, "dog": 0, "ox": None}
    }
    assert [one.objects for one in scores.per_class.values()] == [2, 1, 0]
    assert scores.map == pytest.approx(100 * 51 / 101 / 2)


def test_entries_are_rounded_and_unmapped_classes_dropped() -> None:
    found = _detections([[1.00049, 2, 3.0004, 4], [0, 0, 1, 1]], [0, 1], [0.1234567, 0.5])
    entries = coco_detections([5], [found], category_ids=[18, None])
    assert entries == [
        {"image_id": 5, "category_id": 18, "bbox": [1.0, 2.0, 2.0, 2.0], "score": 0.12346}
    ]


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_unknown_id_is_an_error_that_names_it(key: str) -> None:
    entry = {**_entries(_detections(BOXES[:1], [0]))[0], key: 99}
    with pytest.raises(DataError, match=f"{key} 99"):
        score_detections(_truth(), [entry])


def test_each_image_needs_its_detections() -> None:
    with pytest.raises(DataError, match="2 images, but detections of 1"):
        coco_detections([1, 2], [_detections([], [])], category_ids=[0])


def test_scoring_prints_nothing_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    truth, entries = _truth(), _entries(_detections(BOXES, [0, 0, 1]))
    before = copy.deepcopy((truth, entries))
    score_detections(truth, entries)
    assert (truth, entries) == before
    assert capsys.readouterr() == ("", "")


def test_model_agrees_with_itself_and_less_with_another() -> None:
    reference = [_detections(BOXES, [0, 0, 1]), _detections(BOXES[:1], [2])]
    moved = [_detections([[x + 8 for x in box] for box in BOXES], [0, 0, 1]), reference[1]]
    assert agreement(reference, reference, class_count=3) == pytest.approx(100)
    assert 0 < agreement(reference, moved, class_count=3) < 100


def test_uncertain_reference_detections_are_no_truth() -> None:
    reference = [_detections(BOXES, [0, 0, 1], [0.9, 0.2, 0.1])]
    assert agreement(reference, [_detections(BOXES[:1], [0])], class_count=3) == pytest.approx(100)
    with pytest.raises(DataError, match=r"nothing with a score of 0\.95"):
        agreement(reference, reference, class_count=3, min_score=0.95)


def test_agreement_needs_the_same_images() -> None:
    with pytest.raises(DataError, match="reference saw 1 images, candidate 0"):
        agreement([_detections([], [])], [], class_count=3)
