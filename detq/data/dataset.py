"""A split of a data set: its images and, where there is any, its ground truth."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from detq.config import SPLIT_NAMES, DatasetConfig
from detq.data.annotation import Annotations, GroundTruth, ImageRecord
from detq.data.coco import read_coco
from detq.data.images import FoundImages, find_images, is_image, list_images_in_text
from detq.data.voc import read_voc
from detq.data.yolo_labels import read_yolo_labels
from detq.errors import DataError
from detq.records import NO_COUNTS, DataCounts

__all__ = ["SPLIT_NAMES", "Split", "load_split", "sample_images"]


@dataclass(frozen=True)
class Split:
    """The images of one split; ``annotations`` is None if there is no ground truth for it.

    ``left_out`` counts what else was found.
    """

    name: str
    images: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    annotations: Annotations | None = None
    left_out: DataCounts = NO_COUNTS

    def __post_init__(self) -> None:
        if not self.images:
            raise DataError(f"split {self.name}: no images")
        if len({image.image_id for image in self.images}) < len(self.images):
            raise DataError(f"split {self.name}: image ids are not unique")

    @property
    def paths(self) -> tuple[Path, ...]:
        """The image files, in the order of ``images``."""
        return tuple(image.path for image in self.images)

    def without(self, paths: Collection[Path]) -> Split:
        """The split less some images, which turned out to be damaged.

        Raises DataError if none is left.
        """
        if not paths:
            return self
        gone = set(paths)
        images = tuple(image for image in self.images if image.path not in gone)
        if not images:
            raise DataError(f"split {self.name}: all {len(gone)} images are damaged; replace them")
        kept = {image.image_id for image in images}
        annotations = self.annotations
        if annotations is not None:
            annotations = annotations.of_images(kept)
        names = tuple(image.path.name for image in self.images if image.path in gone)
        found = DataCounts(damaged_images=len(names), damaged_files=names)
        left_out = _sum(self.left_out, found)
        return replace(self, images=images, annotations=annotations, left_out=left_out)

    def only(self, paths: Collection[Path]) -> Split:
        """Some of its images, in their order, with their ground truth. At least one is needed."""
        wanted = set(paths)
        images = tuple(image for image in self.images if image.path in wanted)
        annotations = self.annotations
        if annotations is not None:
            annotations = annotations.of_images({image.image_id for image in images})
        return replace(self, images=images, annotations=annotations)

    def parts(self, size: int) -> Iterator[Split]:
        """Its images in their order, ``size`` at a time, with the ground truth of each."""
        ids = np.array([image.image_id for image in self.images])
        by_id = np.argsort(ids)
        rows = None if self.annotations is None else self.annotations.rows
        positions = np.empty(0, np.int64)
        if rows is not None:
            places = np.searchsorted(ids, rows["image_id"], sorter=by_id)
            positions = by_id[np.minimum(places, len(ids) - 1)]
            order = np.argsort(positions, kind="stable")
            rows, positions = rows[order], positions[order]
        for start in range(0, len(ids), size):
            first, last = np.searchsorted(positions, [start, start + size])
            own = None if rows is None else Annotations.from_rows(rows[first:last])
            yield replace(self, images=self.images[start : start + size], annotations=own)

    def counts(self) -> DataCounts:
        """What is judged by this split, and what was left out of it."""
        rows = (self.annotations or Annotations()).rows
        return replace(
            self.left_out,
            images=len(self.images),
            images_without_objects=len(self.images) - len(np.unique(rows["image_id"])),
            objects=len(rows),
            ignored_objects=int(rows["is_crowd"].sum()),
            objects_without_area=int((rows["box_xywh_px"][:, 2:].min(axis=1) <= 0).sum()),
        )

    def document(self, *, renumbered: bool = False) -> dict[str, Any]:
        """A new COCO instances document; without ground truth it has no annotations.

        Category ids are indices into ``class_names``; annotation ids are the source's own, or count
        from 1 if ``renumbered``.
        """
        return {
            "images": [
                {"id": image.image_id, "file_name": image.path.name} for image in self.images
            ],
            "categories": [
                {"id": index, "name": name} for index, name in enumerate(self.class_names)
            ],
            "annotations": [
                {
                    "id": number if renumbered else item.annotation_id,
                    "image_id": item.image_id,
                    "category_id": item.class_id,
                    "bbox": list(item.box_xywh_px),
                    "area": item.area_px,
                    "iscrowd": int(item.is_crowd),
                }
                for number, item in enumerate(self.annotations or (), start=1)
            ],
        }


def load_split(config: DatasetConfig, name: str, *, with_annotations: bool = True) -> Split:
    """A split of a data set, its ground truth from what the data set names or from label files.

    Where a COCO JSON is named, it decides which images belong to the split.
    ``with_annotations=False`` reads no ground truth, which is enough for calibration and spares the
    reading of a large JSON. Raises ConfigError for a split that the data set does not name, and
    DataError for missing images and for annotations that are malformed or contradict the images.
    """
    found = [_find(config, source) for source in config.sources(name)]
    # A folder that a link gives a second name is the same folder.
    folder = cache(os.path.realpath)
    named = {(folder(path.parent), path.name): path for part in found for path in part.paths}
    paths = tuple(named.values())
    left_out = DataCounts(
        repeated_images=sum(len(part.paths) for part in found) - len(paths),
        skipped_folders=sum(part.skipped_folders for part in found),
        other_images=sum(part.other_images for part in found),
    )
    images = tuple(ImageRecord(path, number) for number, path in enumerate(paths, start=1))
    truth = _read_truth(config, name, images) if with_annotations else None
    if truth is None:
        return Split(name, images, config.class_names, left_out=left_out)
    if not truth.images:
        raise DataError(f"split {name}: {_reason(truth.left_out)}; correct the data set")
    return Split(
        name, truth.images, config.class_names, truth.annotations, _sum(left_out, truth.left_out)
    )


def _find(config: DatasetConfig, source: Path) -> FoundImages:
    if source.suffix.lower() == ".txt":
        return FoundImages(list_images_in_text(source, root=config.path))
    if source.is_file() and not is_image(source):
        raise DataError(f"{source}: expected a folder or a .txt that lists images")
    return find_images(source)


def _read_truth(
    config: DatasetConfig, name: str, images: tuple[ImageRecord, ...]
) -> GroundTruth | None:
    if name in config.annotations:
        source = config.locate(config.annotations[name])
        if source.is_dir():
            return read_voc(source, images=images, class_names=config.class_names)
        paths = [image.path for image in images]
        return read_coco(source, image_files=paths, class_names=config.class_names)
    if not config.names or config.names_are_folders:
        return None
    return read_yolo_labels(images, class_count=len(config.class_names), kpt_shape=config.kpt_shape)


def _sum(first: DataCounts, second: DataCounts) -> DataCounts:
    pairs = {key: value + getattr(second, key) for key, value in asdict(first).items()}
    return DataCounts(**pairs)


def _reason(left_out: DataCounts) -> str:
    return (
        f"no image counts: {left_out.damaged_images} are damaged, {left_out.mislabelled_images} "
        "have labels beyond the image"
    )


def sample_images(split: Split, count: int, seed: int) -> tuple[Path, ...]:
    """``count`` images of the split in file order, or all of them if it has fewer.

    The choice depends on the seed and the file names alone: it is the same on every machine and
    with every version of every library. Raises DataError for a count below 1.
    """
    if count < 1:
        raise DataError(f"split {split.name}: cannot choose {count} images; ask for 1 or more")

    def rank(path: Path) -> str:
        return hashlib.sha256(f"{seed}/".encode() + os.fsencode(path.name)).hexdigest()

    return tuple(sorted(sorted(split.paths, key=rank)[:count]))
