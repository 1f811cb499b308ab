"""What a data set says about one image and one object in it, whatever file it was read from."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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


_ROW = np.dtype(
    [
        *(("annotation_id", np.int64), ("image_id", np.int64), ("class_id", np.int32)),
        *(("box_xywh_px", np.float64, 4), ("area_px", np.float64), ("is_crowd", np.bool_)),
    ]
)


class Annotations:
    """Objects in an order, in 61 bytes each: as objects of Python millions would not fit.

    ``rows`` has a column for each field of :class:`Annotation`, boxes are float64 [n, 4].
    """

    def __init__(self, items: Iterable[Annotation] = ()) -> None:
        self.rows: npt.NDArray[Any] = np.fromiter(map(attrgetter(*_ROW.names or ()), items), _ROW)

    @classmethod
    def from_rows(cls, rows: npt.NDArray[Any]) -> Annotations:
        """Rows of others."""
        annotations = cls()
        annotations.rows = rows
        return annotations

    def __len__(self) -> int:
        return len(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Annotations) and np.array_equal(self.rows, other.rows)

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[Annotation]:
        for number, image, class_id, box, area, is_crowd in self.rows:
            yield Annotation(
                int(number),
                int(image),
                int(class_id),
                tuple(box.tolist()),
                float(area),
                bool(is_crowd),
            )

    def __getitem__(self, index: int) -> Annotation:
        return next(iter(Annotations.from_rows(self.rows[index : index + 1 or None])))

    @property
    def class_ids(self) -> frozenset[int]:
        """Of all classes that have an object."""
        return frozenset(np.unique(self.rows["class_id"]).tolist())

    def of_images(self, image_ids: Collection[int]) -> Annotations:
        """The objects of some images."""
        wanted = np.isin(self.rows["image_id"], np.fromiter(image_ids, np.int64))
        return Annotations.from_rows(self.rows[wanted])


@dataclass(frozen=True)
class GroundTruth:
    """What a reader of annotations found: images that count, their objects, what it left out."""

    images: tuple[ImageRecord, ...]
    annotations: Annotations
    left_out: DataCounts = NO_COUNTS
