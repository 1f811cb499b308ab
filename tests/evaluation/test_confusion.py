"""What objects are taken for, and curves: against a few lines that do it the long way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_matches import CLASSES, IMAGES, SCORES, Images, _document

from detq.evaluation.coco_map import CocoScores, f1_curve, score_detections
from detq.records import STEPS, ClassScores, Confusion

BACKGROUND = len(CLASSES)
SMALL = (0, 0, 40.0, 40.0)


def _overlap(one: Any, two: Any, *, of_crowd: bool = False) -> float:
    """Intersection over union of two boxes [x, y, w, h], with a crowd over the first one."""
    (left, top, width, height), (x, y, w, h) = one, two
    shared_w = max(0, min(left + width, x + w) - max(left, x))
    shared_h = max(0, min(top + height, y + h) - max(top, y))
    shared = shared_w * shared_h
    return float(shared / (width * height if of_crowd else width * height + w * h - shared))


def _slow(images: Images) -> np.ndarray:
    """Objects are rows. Of equals, classes come first that have the lower number."""
    matrix = np.zeros((BACKGROUND + 1, BACKGROUND + 1), np.int64)
    for objects, found in images:
        free = sorted((one for one in objects if not one[2]), key=lambda one: one[0])
        crowds = [one for one in objects if one[2]]
        best_first = sorted(
            (one for one in found if one[2] >= 0.25), key=lambda one: (-one[2], one[0])
        )
        left = []
        for class_id, box, _ in best_first:
            own = [one for one in reversed(free) if one[0] == class_id]
            if (taken := _best(box, own)) is not None:
                free = [one for one in free if one is not taken]
                matrix[class_id, class_id] += 1
            elif all(
                one[0] != class_id or _overlap(box, one[1], of_crowd=True) < 0.5 for one in crowds
            ):
                left.append((class_id, box))
        for class_id, box in left:
            taken = _best(box, free)
            free = [one for one in free if one is not taken]
            matrix[BACKGROUND if taken is None else taken[0], class_id] += 1
        for class_id, *_ in free:
            matrix[class_id, BACKGROUND] += 1
    return matrix


def _best(box: Any, objects: list[Any]) -> Any:
    """The first of those that the box overlaps most, if it does by half; else None."""
    found = max(objects, key=lambda one: _overlap(box, one[1]), default=None)
    return found if found is not None and _overlap(box, found[1]) >= 0.5 else None


def _scored(images: Images) -> CocoScores:
    return score_detections(*_document(images))


@given(IMAGES)
@settings(max_examples=150, deadline=None)
def test_confusions_are_those_of_the_definition(images: Images) -> None:
    confusion = _scored(images).confusion
    assert confusion.class_names == CLASSES
    np.testing.assert_array_equal(confusion.matrix(), _slow(images))


@given(IMAGES)
@settings(max_examples=60, deadline=None)
def test_matrix_and_curves_tell_the_same(images: Images) -> None:
    scores = _scored(images)
    matrix = scores.confusion.matrix()
    for place, one in enumerate(scores.per_class.values()):
        assert matrix[place].sum() == one.objects
        assert len(one.f1) == len(one.precision) == (STEPS if one.objects else 0)
        if one.objects:
            true, found = matrix[place, place], matrix[:, place].sum()
            assert one.f1[25] == 2 * true / (found + one.objects)
            assert one.map50 == pytest.approx(100 * np.mean(one.precision))
    assert matrix[BACKGROUND, BACKGROUND] == 0


@given(st.lists(st.tuples(SCORES, st.booleans())), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_f1_is_that_of_the_detections_from_a_threshold_on(
    found: list[tuple[float, bool]], missed: int
) -> None:
    found = sorted(found, reverse=True)
    objects = sum(right for _, right in found) + missed + 1
    own = f1_curve(
        np.array([score for score, _ in found]),
        np.array([right for _, right in found], np.bool_),
        objects,
    )
    for step, value in enumerate(own):
        kept = [right for score, right in found if score >= step / 100]
        precision, recall = sum(kept) / max(len(kept), 1), sum(kept) / objects
        harmonic = 2 * precision * recall / (precision + recall) if sum(kept) else 0
        assert value == pytest.approx(harmonic)


def test_another_class_on_an_object_is_a_confusion_and_a_second_box_is_background() -> None:
    ant, bee = 0, 1
    images: Images = [
        ([(ant, SMALL, False)], [(bee, SMALL, 0.9)]),
        ([(ant, SMALL, False)], [(bee, SMALL, 0.9), (ant, SMALL, 0.5)]),
        ([(ant, SMALL, False)], [(ant, SMALL, 0.2)]),
    ]
    assert _scored(images).confusion.mistakes() == [
        ("ant", "bee", 1),
        ("ant", None, 1),  # what is found below 0.25 is not found
        (None, "bee", 1),  # the object was found: one of them is right
    ]


def test_crowds_are_neither_missed_nor_found_nor_background() -> None:
    crowd = (0, (0, 0, 200.0, 200.0), True)
    images: Images = [([crowd], [(0, SMALL, 0.9), (1, SMALL, 0.9)])]
    assert _scored(images).confusion.counts == {(BACKGROUND, 1): 1}


def test_undefined_is_none_and_empty() -> None:
    absent = _scored([([], [(0, SMALL, 0.9)])]).per_class["ant"]
    assert absent == ClassScores(None, None, None, 0)
    assert (absent.best_f1, absent.best_confidence) == (None, None)
    unseen = _scored([([(0, SMALL, False)], [])]).per_class["ant"]
    assert (unseen.map, unseen.mar100, unseen.best_f1, unseen.best_confidence) == (0, 0, 0, None)


def test_best_confidence_is_the_middle_of_those_that_do_as_well() -> None:
    one = _scored([([(0, SMALL, False)], [(0, SMALL, 0.9), (1, SMALL, 0.3)])]).per_class["ant"]
    assert (one.best_f1, one.best_confidence) == (1, 0.45)


def test_pairs_of_many_classes_stay_few() -> None:
    names = tuple(map(str, range(1000)))
    confusion = Confusion(names, {(3, 1000): 2, (1000, 5): 1}, iou=0.5, confidence=0.25)
    assert confusion.matrix().shape == (1001, 1001)
    assert confusion.to_dict()["pairs"] == [
        {"object": "3", "detection": None, "count": 2},
        {"object": None, "detection": "5", "count": 1},
    ]


def test_object_0_is_found_here_though_the_protocol_takes_it_for_missed() -> None:
    """Average precision of the preset yolov6 on label files does not count it."""
    document, entries = _document([([(0, SMALL, False)], [(0, SMALL, 0.9)])])
    document["annotations"][0]["id"] = 0
    scores = score_detections(document, entries)
    assert (scores.map50, scores.confusion.counts) == (0, {(0, 0): 1})
