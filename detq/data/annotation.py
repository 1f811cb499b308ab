"""What a data set says about one image and one object in it, whatever file it was read from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from detq.errors import DataError
from detq.records import NO_COUNTS, DataCounts


@dataclass(frozen=True)
class ImageRecord:
    """One image of a split. ``image_id`` is unique there; a COCO JSON's image keeps its id."""

    path: Path
    image_id: int


@dataclass(frozen=True)
class Annotation:
    """One object; the box is left, top, width, height in pixels. ``annotation_id`` is unique.

    ``class_id`` is an index into the data set's class names. ``area_px`` is the area of the
    object's outline, by which COCO calls it small, medium or large; the box may be larger.
    """

    annotation_id: int
    image_id: int
    class_id: int
    box_xywh_px: tuple[float, float, float, float]
    area_px: float
    is_crowd: bool = False

    def __post_init__(self) -> None:
        numbers = (*self.box_xywh_px, self.area_px)
        if not all(map(math.isfinite, numbers)) or min(numbers[2:]) < 0:
            raise DataError(
                f"image {self.image_id}: expected a box of finite numbers without negative size, "
                f"got {self.box_xywh_px} with area {self.area_px}"
            )


@dataclass(frozen=True)
class GroundTruth:
    """What a reader of annotations found: images that count, their objects, what it left out."""

    images: tuple[ImageRecord, ...]
    annotations: tuple[Annotation, ...]
    left_out: DataCounts = NO_COUNTS
