"""Read ground truth from YOLO label files: one text file per image, one object per line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detq.data.annotation import Annotation, Annotations, GroundTruth, ImageRecord
from detq.data.images import image_size_hw
from detq.data.label_rows import BOX_FIELDS, Row, check_meaning, parse_row
from detq.errors import DamagedImageError, DataError
from detq.files import read_text
from detq.records import DataCounts, SizeHW

# Label files hold no ids. pycocotools takes the object with the id 0, once matched, for a missed
# one. YOLOv6's own evaluation counts from 0 all the same, so only the same count gives its figures.
# It costs 0.2 AP on BCCD's 72 test images and next to nothing on thousands; a COCO JSON, which
# brings its own ids, is free of it.
FIRST_ANNOTATION_ID = 0
TOLERANCE = 0.01
"""By how much of the image a coordinate may lie beyond it and still be a share of it."""


@dataclass(frozen=True)
class _Labels:
    """The rows of an image's label file: class, cx, cy, w, h as float64 [n, 5].

    ``counts`` is False for an image with a coordinate beyond it.
    """

    image: ImageRecord
    rows: npt.NDArray[np.float64]
    duplicates: int = 0
    counts: bool = True


def read_yolo_labels(
    images: Sequence[ImageRecord], *, class_count: int, kpt_shape: tuple[int, int] | None = None
) -> GroundTruth | None:
    """Label files beside the images -> objects, or None if no image has a label file.

    A line is ``class cx cy w h``, or ``class x1 y1 x2 y2 x3 y3 …`` for an outline, which is read as
    the box around it; coordinates are shares of the decoded image's width and height. With
    ``kpt_shape`` keypoints follow the box, and are not read. An image without a label file shows no
    object. As in YOLOv6 and Ultralytics a line that is there twice counts once, and an image with
    a coordinate beyond 0..1 is left out, as is one that cannot be decoded.

    Raises DataError with the file and line of the first malformed line, and for lines that may be
    outlines as well as boxes with keypoints.
    """
    files = [_existing(image.path) for image in images]
    if not any(file.exists() for file in files):
        return None
    pairs = zip(images, files, strict=True)
    parsed = [(image, list(_rows(file, class_count, kpt_shape))) for image, file in pairs]
    check_meaning([row for _, rows in parsed for row in rows])
    labels = [_checked(image, rows) for image, rows in parsed]
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(_size_hw, labels))
    sized = list(zip(labels, sizes, strict=True))
    kept = [(one, size) for one, size in sized if one.counts and (size or not len(one.rows))]
    damaged = [one for one, size in sized if one.counts and len(one.rows) and not size]
    ids = count(FIRST_ANNOTATION_ID)
    return GroundTruth(
        images=tuple(one.image for one, _ in kept),
        annotations=Annotations(
            annotation
            for one, size in kept
            if size is not None
            for annotation in _annotations(one, size, ids)
        ),
        left_out=DataCounts(
            damaged_images=len(damaged),
            damaged_files=tuple(one.image.path.name for one in damaged),
            mislabelled_images=sum(not one.counts for one in labels),
            duplicate_rows=sum(one.duplicates for one, _ in kept),
            labels_without_image=_orphans(images, files),
        ),
    )


def label_file(image_file: Path) -> Path:
    """``…/images/…/x.jpg`` -> ``…/labels/…/x.txt``; beside the image without such a folder."""
    folders = list(image_file.parent.parts)
    if "images" in folders:
        last = len(folders) - 1 - folders[::-1].index("images")
        folders[last] = "labels"
    return Path(*folders, f"{image_file.stem}.txt")


def _existing(image_file: Path) -> Path:
    """Where the label file is: in ``labels``, or else beside the image."""
    file, beside = label_file(image_file), image_file.with_suffix(".txt")
    return beside if not file.exists() and beside.exists() else file


def _orphans(images: Sequence[ImageRecord], files: Sequence[Path]) -> int:
    """Label files in folders called ``labels`` whose image is nowhere in the images' folder."""
    folders = {
        file.parent: image.path.parent
        for image, file in zip(images, files, strict=True)
        if file.parent != image.path.parent and file.parent.is_dir()
    }
    return sum(
        len({path.stem for path in labels.glob("*.txt")} - {path.stem for path in shelf.iterdir()})
        for labels, shelf in folders.items()
    )


def _rows(file: Path, class_count: int, kpt_shape: tuple[int, int] | None) -> Iterator[Row]:
    if not file.exists():
        return
    try:
        lines = read_text(file).splitlines()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check the file") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = parse_row(line.split(), f"{file}:{number}", class_count, kpt_shape)
            except ValueError as error:
                raise DataError(f"{file}:{number}: {error}") from None
            yield row


def _checked(image: ImageRecord, rows: Sequence[Row]) -> _Labels:
    """What the programs make of a file's rows, which they hold in single precision.

    Raises DataError for coordinates that are pixels rather than shares.
    """
    for row in rows:
        if not all(-TOLERANCE <= share <= 1 + TOLERANCE for share in row.shares):
            raise DataError(
                f"{row.place}: coordinates must be shares of the image, 0 to 1, got "
                f"{[round(share, 6) for share in row.shares[:4]]}"
            )
    boxes = np.array([(row.class_id, *row.box()) for row in rows]).reshape(-1, BOX_FIELDS)
    shares = [np.array(row.shares, np.float32) for row in rows]
    if any(each.min() < 0 or each.max() > 1 for each in shares):
        return _Labels(image, boxes, counts=False)
    # With a duplicate among them the programs keep the rows in the order of their values.
    _, first = np.unique(boxes.astype(np.float32), axis=0, return_index=True)
    duplicates = len(boxes) - len(first)
    return _Labels(image, boxes[first] if duplicates else boxes, duplicates)


def _size_hw(labels: _Labels) -> SizeHW | None:
    """The decoded image's size; None if it is damaged, or not needed."""
    if not len(labels.rows) or not labels.counts:
        return None
    try:
        return image_size_hw(labels.image.path)
    except DamagedImageError:
        return None


def _annotations(labels: _Labels, size: SizeHW, ids: Iterator[int]) -> Iterator[Annotation]:
    image_height, image_width = size
    for class_id, cx, cy, width, height in labels.rows.tolist():
        yield Annotation(
            annotation_id=next(ids),
            image_id=labels.image.image_id,
            class_id=int(class_id),
            box_xywh_px=(
                (cx - width / 2) * image_width,
                (cy - height / 2) * image_height,
                width * image_width,
                height * image_height,
            ),
            area_px=width * height * image_width * image_height,
        )
