from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from detq.records import Detections
from detq.report.disagreement import worst_disagreements


def _found(*boxes: tuple[float, float, float, float, int]) -> Detections:
    table = np.array(boxes, np.float32).reshape(-1, 5)
    return Detections(table[:, :4], np.full(len(table), 0.9, np.float32), table[:, 4].astype(int))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for path in paths:
        cv2.imwrite(str(path), np.full((100, 960, 3), 128, np.uint8))
    return paths


def test_worst_image_comes_first_and_agreement_is_left_out(pictures: list[Path]) -> None:
    box, moved, other = (0, 0, 50, 50, 0), (2, 2, 52, 52, 0), (60, 0, 90, 50, 1)
    in_float = [_found(box), _found(box), _found(box, other)]
    in_int8 = [_found(moved), _found((0, 0, 50, 50, 1)), _found(box)]
    rows = worst_disagreements(pictures, in_float, in_int8, ["x", "y"])
    assert [(row.name, row.only_float, row.only_int8) for row in rows] == [
        ("b.png", 1, 1),  # same place, another class
        ("c.png", 1, 0),
    ]
    assert len(worst_disagreements(pictures, in_float, in_int8, ["x", "y"], count=1)) == 1


def test_pictures_are_side_by_side_and_small(pictures: list[Path]) -> None:
    (row,) = worst_disagreements(pictures[:1], [_found((0, 0, 50, 50, 0))], [_found()], ["x"])
    image = cv2.imdecode(np.frombuffer(row.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (50, 2 * 480 + 8, 3)
    left, right = image[:, :480], image[:, -480:]
    assert np.abs(left.astype(int) - 128).max() > 60  # the box
    assert np.abs(right.astype(int) - 128).max() < 20
