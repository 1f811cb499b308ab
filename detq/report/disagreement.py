"""The images on which the INT8 model finds something else than the float model, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from detq.data.dataset import Split
from detq.data.images import ImageBGR, read_image_bgr
from detq.opencv import cv2
from detq.records import Detections, NamedClass, Ranking

WIDTH_PX = 480
"""Of each picture; what is larger is made smaller."""
SAME_PLACE = 0.5
"""Boxes of one class that overlap by so much are the same object."""
UNMOVED = 0.8
"""Of the same object, those that overlap by less moved."""

Kind = Literal["truth", "both", "moved", "only"]
"""What a box is: an object of the data set, one that both models find, one that they find in two
places, one that the other model does not find.
"""


@dataclass(frozen=True)
class Mark:
    """A box in pixels of the picture."""

    kind: Kind
    label: str
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Panel:
    """The picture as one model sees it; marks that matter most are last."""

    title: str
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A JPEG with its size in pixels, and how much smaller it is than the image, 0..1."""

    jpeg: bytes
    width: int
    height: int
    scale: float


class Difference(Protocol):
    """One image in which two models find different things."""

    @property
    def name(self) -> str:
        """The file's name."""

    @property
    def picture(self) -> Picture:
        """The image, smaller."""

    @property
    def panels(self) -> Sequence[Panel]:
        """It is shown once for each."""

    @property
    def caption(self) -> str:
        """What differs, in words."""


@dataclass(frozen=True)
class Disagreement:
    """One image: how many objects only one of the models found, or both in different places."""

    name: str
    only_float: int
    only_int8: int
    moved: int
    picture: Picture
    panels: tuple[Panel, Panel]

    @property
    def caption(self) -> str:
        """What differs, in words."""
        words = f"{self.only_float} only in float, {self.only_int8} only in INT8"
        return f"{words}, {self.moved} moved" if self.moved else words


@dataclass(frozen=True)
class ChangedClass:
    """One image that the models take for different things: both answers."""

    name: str
    in_float: NamedClass
    in_int8: NamedClass
    picture: Picture
    panels: tuple[Panel, ...] = (Panel(""),)

    @property
    def caption(self) -> str:
        """What differs, in words."""
        both = ((self.in_float, "float"), (self.in_int8, "INT8"))
        return ", ".join(f"{found.label} ({found.score:.2f}) in {where}" for found, where in both)


def worst_disagreements(
    images: Split,
    in_float: Sequence[Detections],
    in_int8: Sequence[Detections],
    class_names: Sequence[str],
    *,
    count: int = 3,
) -> list[Disagreement]:
    """The images with most objects that one model finds and the other does not, worst first.

    Detections are those of the images, in this order, ``class_names`` the models'. Images that the
    models agree on are left out. Objects that the split has in them are marked, too.
    """
    rows = []
    for place, (one, two) in enumerate(zip(in_float, in_int8, strict=True)):
        kinds = _kinds(one, two), _kinds(two, one)
        lost, new = (each.count("only") for each in kinds)
        moved = kinds[1].count("moved")
        if lost + new + moved:
            rows.append(((-lost - new, -moved, place), (lost, new, moved), kinds))
    rows.sort(key=lambda row: row[0])
    found = []
    for (*_, place), counts, kinds in rows[:count]:
        path = images.images[place].path
        picture = _picture(path)
        truth = _truth(images, place, picture.scale)
        panels = tuple(
            Panel(title, (*truth, *_marks(own, kind, class_names, picture.scale)))
            for title, own, kind in zip(
                ("float", "INT8"), (in_float[place], in_int8[place]), kinds, strict=True
            )
        )
        found.append(Disagreement(path.name, *counts, picture, (panels[0], panels[1])))
    return found


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
    return [ChangedClass(path.name, one, two, _picture(path)) for path, one, two in rows[:count]]


def _kinds(one: Detections, two: Detections) -> list[Kind]:
    """What each of the first detections is beside the second ones."""
    overlaps = _best_overlaps(one, two)
    return [
        "only" if best < SAME_PLACE else "moved" if best < UNMOVED else "both"
        for best in overlaps.tolist()
    ]


def _best_overlaps(one: Detections, two: Detections) -> npt.NDArray[np.float32]:
    """[n] the greatest overlap of each of the first with any of the second of its class."""
    if not len(one) or not len(two):
        return np.zeros(len(one), np.float32)
    left = np.maximum(one.boxes_xyxy_px[:, None, :2], two.boxes_xyxy_px[None, :, :2])
    right = np.minimum(one.boxes_xyxy_px[:, None, 2:], two.boxes_xyxy_px[None, :, 2:])
    shared = np.clip(right - left, 0, None).prod(axis=2)
    areas = [np.prod(d.boxes_xyxy_px[:, 2:] - d.boxes_xyxy_px[:, :2], axis=1) for d in (one, two)]
    overlap = shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)
    overlap[one.class_ids[:, None] != two.class_ids[None]] = 0
    return np.asarray(overlap.max(axis=1), np.float32)


def _marks(
    found: Detections, kinds: Sequence[Kind], class_names: Sequence[str], scale: float
) -> list[Mark]:
    """What both find at the same place first: what differs is drawn above it."""
    marks = []
    for kind, one in zip(kinds, found.named(class_names), strict=True):
        left, top, right, bottom = (scale * edge for edge in one.box_xyxy_px)
        label = f"{one.label} {one.score:.2f}"
        marks.append(Mark(kind, label, left, top, right - left, bottom - top))
    order: Sequence[Kind] = ("both", "moved", "only")
    return sorted(marks, key=lambda mark: order.index(mark.kind))


def _truth(images: Split, place: int, scale: float) -> list[Mark]:
    """The objects of an image; crowds are areas, not objects."""
    if images.annotations is None:
        return []
    return [
        Mark("truth", images.class_names[item.class_id], *(scale * x for x in item.box_xywh_px))
        for item in images.annotations.of_images([images.images[place].image_id])
        if not item.is_crowd
    ]


def _picture(path: Path) -> Picture:
    image = read_image_bgr(path)
    scale = min(1.0, WIDTH_PX / image.shape[1])
    width, height = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small: ImageBGR = np.asarray(
        cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8
    )
    _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return Picture(encoded.tobytes(), width, height, scale)
