"""The images on which the INT8 model finds something else than the float model, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from detq.data.images import ImageBGR, read_image_bgr
from detq.opencv import cv2
from detq.records import Detections, NamedClass, Ranking
from detq.report.draw import draw_detections

WIDTH_PX = 480
"""Of each picture; what is larger is made smaller."""


class Difference(Protocol):
    """One image in which two models find different things."""

    @property
    def name(self) -> str:
        """The file's name."""

    @property
    def jpeg(self) -> bytes:
        """The image, with whatever can be shown in it."""

    @property
    def caption(self) -> str:
        """What differs, in words."""


@dataclass(frozen=True)
class Disagreement:
    """One image: objects that only one of the models found, and both pictures as one JPEG."""

    name: str
    only_float: int
    only_int8: int
    jpeg: bytes

    @property
    def caption(self) -> str:
        """What differs, in words."""
        return f"{self.only_float} only in float, {self.only_int8} only in INT8"


@dataclass(frozen=True)
class ChangedClass:
    """One image that the models take for different things: both answers, and its JPEG."""

    name: str
    in_float: NamedClass
    in_int8: NamedClass
    jpeg: bytes

    @property
    def caption(self) -> str:
        """What differs, in words."""
        both = ((self.in_float, "float"), (self.in_int8, "INT8"))
        return ", ".join(f"{found.label} ({found.score:.2f}) in {where}" for found, where in both)


def worst_disagreements(
    paths: Sequence[Path],
    in_float: Sequence[Detections],
    in_int8: Sequence[Detections],
    class_names: Sequence[str],
    *,
    count: int = 3,
) -> list[Disagreement]:
    """The images with most objects that one model finds and the other does not, worst first.

    Detections are those of the paths, in this order. Images that the models agree on are left out.
    """
    rows = []
    for path, one, two in zip(paths, in_float, in_int8, strict=True):
        lost, new = _unmatched(one, two), _unmatched(two, one)
        if lost + new:
            rows.append((lost + new, path, one, two, lost, new))
    rows.sort(key=lambda row: -row[0])
    return [
        Disagreement(path.name, lost, new, _side_by_side(path, one, two, class_names))
        for _, path, one, two, lost, new in rows[:count]
    ]


def changed_classes(
    paths: Sequence[Path],
    in_float: Sequence[Ranking],
    in_int8: Sequence[Ranking],
    class_names: Sequence[str],
    *,
    count: int = 3,
) -> list[ChangedClass]:
    """The images whose best class is another one in INT8, those first that float was surest of."""
    rows = [
        (path, one.named(class_names)[0], two.named(class_names)[0])
        for path, one, two in zip(paths, in_float, in_int8, strict=True)
        if one.class_ids[0] != two.class_ids[0]
    ]
    rows.sort(key=lambda row: -row[1].score)
    return [
        ChangedClass(path.name, one, two, _jpeg(_reduced(read_image_bgr(path))))
        for path, one, two in rows[:count]
    ]


def _unmatched(one: Detections, two: Detections) -> int:
    """How many of the first detections have none of the same class at the same place."""
    if not len(one) or not len(two):
        return len(one)
    left = np.maximum(one.boxes_xyxy_px[:, None, :2], two.boxes_xyxy_px[None, :, :2])
    right = np.minimum(one.boxes_xyxy_px[:, None, 2:], two.boxes_xyxy_px[None, :, 2:])
    shared = np.clip(right - left, 0, None).prod(axis=2)
    areas = [np.prod(d.boxes_xyxy_px[:, 2:] - d.boxes_xyxy_px[:, :2], axis=1) for d in (one, two)]
    overlap = shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)
    overlap[one.class_ids[:, None] != two.class_ids[None]] = 0
    return int((overlap.max(axis=1) < 0.5).sum())


def _side_by_side(
    path: Path, one: Detections, two: Detections, class_names: Sequence[str]
) -> bytes:
    image = read_image_bgr(path)
    pair = [draw_detections(image, found, class_names) for found in (one, two)]
    small = [_reduced(each) for each in pair]
    gap = np.full((small[0].shape[0], 8, 3), 255, np.uint8)
    return _jpeg(np.hstack([small[0], gap, small[1]]))


def _reduced(image: ImageBGR) -> ImageBGR:
    scale = min(1.0, WIDTH_PX / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg(image: ImageBGR) -> bytes:
    _, encoded = cv2.imencode(".jpg", image)
    return encoded.tobytes()
