"""A split of a data set: its images and, where there is any, its ground truth."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detq.config import DatasetConfig
from detq.data.annotation import Annotation, ImageRecord
from detq.data.coco import read_coco
from detq.data.images import list_images, list_images_in_text
from detq.data.yolo_labels import read_yolo_labels
from detq.errors import ConfigError, DataError

SPLIT_NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """The images of one split; ``annotations`` is None if there is no ground truth for it."""

    name: str
    images: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    annotations: tuple[Annotation, ...] | None = None

    def __post_init__(self) -> None:
        if not self.images:
            raise DataError(f"split {self.name}: no images")
        if len({image.image_id for image in self.images}) < len(self.images):
            raise DataError(f"split {self.name}: image ids are not unique")

    @property
    def paths(self) -> tuple[Path, ...]:
        """The image files, in the order of ``images``."""
        return tuple(image.path for image in self.images)

    def ground_truth(self, *, renumbered: bool = False) -> dict[str, Any] | None:
        """A new COCO instances document, or None without ground truth.

        Category ids are indices into ``class_names``; annotation ids are the source's own, or count
        from 1 if ``renumbered``.
        """
        if self.annotations is None:
            return None
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
                for number, item in enumerate(self.annotations, start=1)
            ],
        }


def load_split(config: DatasetConfig, name: str, *, with_annotations: bool = True) -> Split:
    """A split of a data set, its ground truth from the COCO JSON or else from YOLO label files.

    Where a COCO JSON is named, it decides which images belong to the split.
    ``with_annotations=False`` reads no ground truth, which is enough for calibration and spares the
    reading of a large JSON. Raises ConfigError for a split that the data set does not name, and
    DataError for missing images and for annotations that are malformed or contradict the images.
    """
    sources = {split: getattr(config, split) for split in SPLIT_NAMES if getattr(config, split)}
    if name not in sources:
        known = ", ".join(sources) or "none"
        raise ConfigError(f"{config.path}: the data set has no split {name!r}; it names: {known}")
    paths = _split_images(config.path / sources[name])
    images = tuple(ImageRecord(path, number) for number, path in enumerate(paths, start=1))
    annotations = None
    if with_annotations and name in config.annotations:
        images, annotations = read_coco(
            config.path / config.annotations[name],
            image_files=paths,
            class_names=config.class_names,
        )
    elif with_annotations:
        annotations = read_yolo_labels(images, class_count=len(config.class_names))
    return Split(name, images, config.class_names, annotations)


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


def _split_images(source: Path) -> tuple[Path, ...]:
    if source.suffix.lower() == ".txt":
        return list_images_in_text(source)
    if source.is_file():
        raise DataError(f"{source}: expected a folder or a .txt that lists images")
    return list_images(source)
