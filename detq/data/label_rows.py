"""One row of a YOLO label file, and what a row of that many numbers means.

A row is a box (``class cx cy w h``), an outline (``class x1 y1 x2 y2 …``; four points are an
oriented box) or a box with keypoints (``class cx cy w h x1 y1 …`` or ``… x1 y1 v1 …``). The last
two can have the same number of fields, and a box read as two corners of an outline is a wrong one
that nobody notices. So rows are outlines only where they cannot well be anything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detq.errors import DataError

BOX_FIELDS = 5
LEAST_OUTLINE_FIELDS = 7
ORIENTED_BOX_FIELDS = 9
LEAST_ROWS = 4
"""Fewer convex rows than this may be keypoints by chance."""
_BEYOND = 0.05
_PROOF = 0.1
"""A share of the rows read as boxes that reach further beyond the image: no boxes, then."""
_CROOKED = 0.1
"""By how much of its extent an oriented box may fail to be a parallelogram."""


@dataclass(frozen=True)
class Row:
    """A row: ``place`` is file and line, ``shares`` the coordinates that count."""

    place: str
    class_id: int
    shares: tuple[float, ...]

    @property
    def is_outline(self) -> bool:
        """True if the coordinates are corners."""
        return len(self.shares) > 4

    def box(self) -> tuple[float, float, float, float]:
        """cx, cy, w, h as shares of the image."""
        if not self.is_outline:
            cx, cy, width, height = self.shares
            return cx, cy, width, height
        left, right = min(self.shares[::2]), max(self.shares[::2])
        top, bottom = min(self.shares[1::2]), max(self.shares[1::2])
        return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def parse_row(
    fields: Sequence[str], place: str, class_count: int, kpt_shape: tuple[int, int] | None
) -> Row:
    """Fields of a line -> row; ValueError gives the reason."""
    keypoint_fields = 0 if kpt_shape is None else BOX_FIELDS + kpt_shape[0] * kpt_shape[1]
    _check_count(len(fields), keypoint_fields)
    try:
        label, *numbers = [float(field) for field in fields]
    except ValueError:
        raise ValueError(f"expected numbers, got {' '.join(fields)!r}") from None
    if label not in range(class_count):
        raise ValueError(f"class {fields[0]} is outside 0..{class_count - 1}")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"coordinates must be shares of the image, 0 to 1, got {numbers[:4]}")
    return Row(place, int(label), tuple(numbers[:4] if keypoint_fields else numbers))


def check_meaning(rows: Sequence[Row]) -> None:
    """Raise DataError if a data set's outlines may as well be boxes with keypoints.

    Those have one number of fields throughout, and a box that lies in the image.
    """
    outlines = [row for row in rows if row.is_outline]
    if len({len(row.shares) for row in outlines}) != 1:
        return
    corners = np.array([row.shares for row in outlines])
    if _are_no_boxes(corners):
        return
    points = corners.reshape(len(corners), -1, 2)  # [rows, points, x and y]
    fields = 1 + corners.shape[1]
    if fields == ORIENTED_BOX_FIELDS and _are_parallelograms(points):
        return
    if fields > ORIENTED_BOX_FIELDS and len(outlines) >= LEAST_ROWS and _are_convex(points):
        return
    raise DataError(
        f"{outlines[0].place}: {fields} fields may be a box with keypoints as well as an "
        "outline; name `kpt_shape: [keypoints, 2 or 3]` in the data set's YAML if they are "
        "keypoints, or pass the boxes as a COCO JSON"
    )


def _check_count(fields: int, keypoint_fields: int) -> None:
    """Raise ValueError for a number of fields that no kind of row has."""
    if fields in (BOX_FIELDS, keypoint_fields):
        return
    if keypoint_fields:
        raise ValueError(
            f"expected `class cx cy w h` and keypoints, {keypoint_fields} fields by the YAML's "
            f"`kpt_shape`, got {fields} fields"
        )
    if fields == BOX_FIELDS + 1:
        raise ValueError(
            "expected `class cx cy w h`, got 6 fields: predictions with a confidence, or tracks, "
            "are no ground truth"
        )
    if fields >= LEAST_OUTLINE_FIELDS and fields % 2 == 0 and (fields - BOX_FIELDS) % 3 == 0:
        raise ValueError(
            f"{fields} fields look like a box with {(fields - BOX_FIELDS) // 3} keypoints; name "
            f"`kpt_shape: [{(fields - BOX_FIELDS) // 3}, 3]` in the data set's YAML if they are"
        )
    if fields < LEAST_OUTLINE_FIELDS or fields % 2 == 0:
        raise ValueError(f"expected `class cx cy w h`, got {fields} fields")


def _are_no_boxes(corners: npt.NDArray[np.float64]) -> bool:
    """True if the first four numbers cannot be cx, cy, w, h: too many would leave the image."""
    centre, size = corners[:, :2], corners[:, 2:4]
    low, high = centre - size / 2, centre + size / 2
    beyond = ((low < -_BEYOND) | (high > 1 + _BEYOND)).any(axis=1)
    return bool(beyond.mean() > _PROOF)


def _are_parallelograms(points: npt.NDArray[np.float64]) -> bool:
    """Quadrangles [n, 4, 2] -> True if in each the diagonals halve each other, or nearly."""
    apart = np.abs(points[:, 0] + points[:, 2] - points[:, 1] - points[:, 3])
    extent = points.max(axis=1) - points.min(axis=1)
    return bool((apart <= _CROOKED * np.maximum(extent, 1e-3)).all())


def _are_convex(points: npt.NDArray[np.float64]) -> bool:
    """Outlines [n, k, 2] -> True if each turns one way all around, which keypoints hardly do."""
    edges = np.roll(points, -1, axis=1) - points
    following = np.roll(edges, -1, axis=1)
    turns = edges[..., 0] * following[..., 1] - edges[..., 1] * following[..., 0]
    return bool(((turns >= -1e-9).all(axis=1) | (turns <= 1e-9).all(axis=1)).all())
