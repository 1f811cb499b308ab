"""Read ground truth from YOLO label files: one text file per image, one object per line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from PIL import ExifTags, Image

from detq.data.annotation import Annotation, ImageRecord
from detq.errors import DataError
from detq.records import SizeHW

# Label files hold no ids. pycocotools takes the object with the id 0, once matched, for a missed
# one. YOLOv6's own evaluation counts from 0 all the same, so only the same count gives its figures.
# It costs 0.2 AP on BCCD's 72 test images and next to nothing on thousands; a COCO JSON, which
# brings its own ids, is free of it.
FIRST_ANNOTATION_ID = 0

_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def read_yolo_labels(
    images: Sequence[ImageRecord], *, class_count: int
) -> tuple[Annotation, ...] | None:
    """Label files beside the images -> objects, or None if no image has a label file.

    A line is ``class cx cy w h``, or ``class x1 y1 x2 y2 x3 y3 …`` for an outline, which is read as
    the box around it; coordinates are shares of the image's width and height. An image without a
    label file shows no object. Raises DataError with the file and line of the first malformed line.
    """
    files = [label_file(image.path) for image in images]
    if not any(file.is_file() for file in files):
        return None
    ids = count(FIRST_ANNOTATION_ID)
    return tuple(
        annotation
        for image, file in zip(images, files, strict=True)
        if file.is_file()
        for annotation in _read_file(file, image, class_count, ids)
    )


def label_file(image_file: Path) -> Path:
    """``…/images/…/x.jpg`` -> ``…/labels/…/x.txt``; beside the image without such a folder."""
    folders = list(image_file.parent.parts)
    if "images" in folders:
        last = len(folders) - 1 - folders[::-1].index("images")
        folders[last] = "labels"
    return Path(*folders, f"{image_file.stem}.txt")


def _read_file(
    file: Path, image: ImageRecord, class_count: int, ids: Iterator[int]
) -> Iterator[Annotation]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); check the label file") from None
    filled = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not filled:
        return
    image_height, image_width = image_size_hw(image.path)
    for number, fields in filled:
        try:
            class_id, (cx, cy, width, height) = _parse_line(fields, class_count)
        except ValueError as error:
            raise DataError(f"{file}:{number}: {error}") from None
        yield Annotation(
            annotation_id=next(ids),
            image_id=image.image_id,
            class_id=class_id,
            box_xywh_px=(
                (cx - width / 2) * image_width,
                (cy - height / 2) * image_height,
                width * image_width,
                height * image_height,
            ),
            area_px=width * height * image_width * image_height,
        )


def _parse_line(
    fields: list[str], class_count: int
) -> tuple[int, tuple[float, float, float, float]]:
    """Fields of a line -> class id and cx, cy, w, h as shares; ValueError gives the reason."""
    if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
        raise ValueError(f"expected `class cx cy w h`, got {len(fields)} fields")
    try:
        label, *shares = [float(field) for field in fields]
    except ValueError:
        raise ValueError(f"expected numbers, got {' '.join(fields)!r}") from None
    if label not in range(class_count):
        raise ValueError(f"class {fields[0]} is outside 0..{class_count - 1}")
    if not all(math.isfinite(share) and 0 <= share <= 1 for share in shares):
        raise ValueError(f"coordinates must be shares of the image, 0 to 1, got {shares}")
    if len(shares) == 4:
        cx, cy, width, height = shares
        return int(label), (cx, cy, width, height)
    left, right = min(shares[::2]), max(shares[::2])
    top, bottom = min(shares[1::2]), max(shares[1::2])
    return int(label), ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)


def image_size_hw(path: Path) -> SizeHW:
    """Height and width of the image as OpenCV decodes it, read from the file's header.

    Raises DataError if the file is no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
    except OSError:
        raise DataError(f"{path}: its size cannot be read; replace the file") from None
    return (width, height) if turned else (height, width)
