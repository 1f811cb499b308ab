from __future__ import annotations

import math
from itertools import starmap
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest

from detq.config import DatasetConfig
from detq.data.annotation import Annotation
from detq.data.dataset import load_split
from detq.errors import DataError

Point = tuple[float, float]
SIDE = 128


def _boxes(count: int = 20) -> list[tuple[float, float, float, float]]:
    """Random boxes inside the image: cx, cy, w, h."""
    random = Random(0)
    boxes = []
    for _ in range(count):
        width, height = random.uniform(0.05, 0.4), random.uniform(0.05, 0.4)
        cx, cy = (
            random.uniform(width / 2, 1 - width / 2),
            random.uniform(height / 2, 1 - height / 2),
        )
        boxes.append((cx, cy, width, height))
    return boxes


def _row(*numbers: float) -> str:
    return " ".join(["0", *(f"{number:.7f}" for number in numbers)])


def _read(folder: Path, lines: list[str], **more: object) -> tuple[Annotation, ...]:
    for part in ("images", "labels"):
        (folder / part).mkdir()
    cv2.imwrite(str(folder / "images/a.png"), np.zeros((SIDE, SIDE, 3), np.uint8))
    (folder / "labels/a.txt").write_text("\n".join(lines))
    config = DatasetConfig.model_validate({"path": folder, "val": "images", "names": ["a"], **more})
    annotations = load_split(config, "val").annotations
    assert annotations is not None
    return annotations


def _with_keypoints(
    box: tuple[float, float, float, float], count: int, numbers: int, inside: bool
) -> str:
    random = Random(repr(box))
    cx, cy, width, height = box
    row = list(box)
    for _ in range(count):
        if inside:
            row += [cx + width * (random.random() - 0.5), cy + height * (random.random() - 0.5)]
        else:
            row += [random.random(), random.random()]
        row += [2.0] * (numbers - 2)
    return _row(*row)


@pytest.mark.parametrize("inside", [True, False], ids=["inside the box", "anywhere"])
@pytest.mark.parametrize("numbers", [2, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 17])
def test_keypoints_are_no_outline(tmp_path: Path, count: int, numbers: int, inside: bool) -> None:
    """Refused unless ``kpt_shape`` is stated: then the box is read, and the keypoints are not."""
    lines = [_with_keypoints(box, count, numbers, inside) for box in _boxes()]
    (tmp_path / "with").mkdir()
    found = _read(tmp_path / "with", lines, kpt_shape=(count, numbers))
    for item, (cx, cy, width, height) in zip(found, _boxes(), strict=True):
        expected = np.array([cx - width / 2, cy - height / 2, width, height]) * SIDE
        np.testing.assert_allclose(item.box_xywh_px, expected, atol=1e-4)
    (tmp_path / "without").mkdir()
    with pytest.raises(DataError, match=r"a\.txt:1: .*kpt_shape"):
        _read(tmp_path / "without", lines)


def test_constant_keypoints_are_no_outline(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="kpt_shape"):
        _read(tmp_path, [_row(*box, 0.1, 0.1, 0.9, 0.9, 0.2, 0.2, 0.3, 0.3) for box in _boxes()])


def test_another_number_of_fields_than_kpt_shape_says_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt:1: .*9 fields by the YAML's `kpt_shape`, got 11"):
        _read(tmp_path, [_row(*_boxes()[0], *[0.5] * 6)], kpt_shape=(2, 2))


def _polygon(box: tuple[float, float, float, float], corners: int, turn: float) -> list[Point]:
    cx, cy, width, height = box
    angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
    return [(cx + width / 2 * math.cos(a), cy + height / 2 * math.sin(a)) for a in angles]


@pytest.mark.parametrize("turn", [0.0, math.pi / 4, 0.3])
@pytest.mark.parametrize("corners", [[4], [5], [8], [30], [3, 4], [4, 5, 9]], ids=str)
def test_outlines_are_read_as_the_box_around_them(
    tmp_path: Path, corners: list[int], turn: float
) -> None:
    """Four corners are an oriented box; of more, or of several numbers, an outline."""
    outlines = [
        _polygon(box, corners[number % len(corners)], turn) for number, box in enumerate(_boxes())
    ]
    lines = [_row(*(number for point in outline for number in point)) for outline in outlines]
    for item, outline in zip(_read(tmp_path, lines), outlines, strict=True):
        low, high = np.min(outline, axis=0), np.max(outline, axis=0)
        np.testing.assert_allclose(item.box_xywh_px, [*low * SIDE, *(high - low) * SIDE], atol=1e-4)


def test_plain_boxes_may_stand_among_outlines(tmp_path: Path) -> None:
    square = [(0.7, 0.7), (0.9, 0.7), (0.9, 0.9), (0.7, 0.9)]
    lines = [_row(0.3, 0.3, 0.2, 0.2), _row(*(number for point in square for number in point))]
    boxes = [item.box_xywh_px for item in _read(tmp_path, lines)]
    expected = np.array([[0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2]]) * SIDE
    np.testing.assert_allclose(boxes, expected, atol=1e-4)


def test_confidence_behind_the_box_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt:1: .*got 6 fields: predictions with a confidence"):
        _read(tmp_path, list(starmap(_row, [(*box, 0.9) for box in _boxes()])))
