from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from detq.data.annotation import Annotation, Annotations, ImageRecord
from detq.data.dataset import Split
from detq.records import Detections
from detq.report.disagreement import worst_disagreements

BOX = (0, 0, 50, 50, 0)


def _found(*boxes: tuple[float, float, float, float, int]) -> Detections:
    table = np.array(boxes, np.float32).reshape(-1, 5)
    return Detections(table[:, :4], np.full(len(table), 0.9, np.float32), table[:, 4].astype(int))


@pytest.fixture
def pictures(tmp_path: Path) -> Split:
    """Three images, twice as wide as what is shown; the first has an object and a crowd."""
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for path in paths:
        cv2.imwrite(str(path), np.full((100, 960, 3), 128, np.uint8))
    objects = (
        Annotation(1, 5, 1, (100.0, 20.0, 40.0, 30.0), 1200.0),
        Annotation(2, 5, 1, (0.0, 0.0, 900.0, 90.0), 1.0, is_crowd=True),
    )
    images = tuple(ImageRecord(path, number) for number, path in enumerate(paths, start=5))
    return Split("val", images, ("ant", "bee"), Annotations(objects))


def test_worst_image_comes_first_and_agreement_is_left_out(pictures: Split) -> None:
    close, other = (2, 2, 52, 52, 0), (60, 0, 90, 50, 1)
    in_float = [_found(BOX), _found(BOX), _found(BOX, other)]
    in_int8 = [_found(close), _found((0, 0, 50, 50, 1)), _found(BOX)]
    rows = worst_disagreements(pictures, in_float, in_int8, ["x", "y"])
    assert [(row.name, row.only_float, row.only_int8, row.moved) for row in rows] == [
        ("b.png", 1, 1, 0),  # same place, another class
        ("c.png", 1, 0, 0),
    ]
    assert len(worst_disagreements(pictures, in_float, in_int8, ["x", "y"], count=1)) == 1


def test_what_differs_is_marked_above_what_does_not(pictures: Split) -> None:
    other, moved = (400, 0, 500, 50, 1), (410, 5, 520, 60, 1)
    in_float = [_found((600, 0, 700, 40, 0), other, BOX), _found(), _found()]
    in_int8 = [_found(moved, BOX), _found(), _found()]
    (row,) = worst_disagreements(pictures, in_float, in_int8, ["x", "y"])
    assert row.caption == "1 only in float, 0 only in INT8, 1 moved"
    left, right = row.panels
    assert [mark.kind for mark in left.marks] == ["truth", "both", "moved", "only"]
    assert [mark.kind for mark in right.marks] == ["truth", "both", "moved"]
    assert [mark.label for mark in left.marks] == ["bee", "x 0.90", "y 0.90", "x 0.90"]
    assert (left.title, right.title) == ("float", "INT8")


def test_boxes_lie_where_they_are_in_the_smaller_picture(pictures: Split) -> None:
    (row,) = worst_disagreements(pictures.only(pictures.paths[:1]), [_found(BOX)], [_found()], "xy")
    image = cv2.imdecode(np.frombuffer(row.picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (row.picture.height, row.picture.width, 3) == (50, 480, 3)
    truth, found = row.panels[0].marks
    assert (truth.left, truth.top, truth.width, truth.height) == (50, 10, 20, 15)
    assert (found.left, found.top, found.width, found.height) == (0, 0, 25, 25)


def test_without_ground_truth_none_is_marked(pictures: Split) -> None:
    bare = Split("train", pictures.images, ())
    (row,) = worst_disagreements(bare, [_found(BOX)] * 3, [_found(BOX)] * 2 + [_found()], ["x"])
    assert row.name == "c.png"
    assert [mark.kind for mark in row.panels[0].marks] == ["only"]
