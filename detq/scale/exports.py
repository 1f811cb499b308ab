"""Rows of a run in the forms that other programs read; one row at a time is held."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from detq.data.coco import read_coco_ids
from detq.data.sources import Entry
from detq.errors import ArtifactError, DataError
from detq.exchange import CATEGORIES_FROM, coco_result
from detq.files import atomic_write, result_file
from detq.records import COCO_IDS, COCO_NAMES
from detq.scale.rows import Row

Export = Literal["coco", "yolo", "csv"]
CSV_COLUMNS = (
    *("id", "source", "index", "time_s", "width", "height"),
    *("class_id", "class_name", "score", "x1", "y1", "x2", "y2", "error"),
)


@dataclass(frozen=True)
class CocoIds:
    """Image ids by file name, category ids by class name, of the truth that results belong to."""

    images: Mapping[str, int | str]
    categories: Mapping[str, int | str]

    def image(self, row: Row) -> int | str:
        """Without a truth the number that the name is, as COCO's are, else the name."""
        name = PurePosixPath(row["id"])
        is_frame = row["id"] == f"{row.get('source')}#{row.get('index')}"
        if self.images:
            for steps in (name.parts[start:] for start in range(len(name.parts))):
                if (key := "/".join(steps)) in self.images:
                    return self.images[key]
            raise DataError(
                f"{row['id']}: is no image of --annotations; name the file that lists it"
            )
        is_number = name.stem.isdecimal() and name.suffix and not is_frame
        return int(name.stem) if is_number else str(name)

    def check(self, entry: Entry, class_names: Iterable[str]) -> None:
        """Raise DataError, before the work begins, if a truth is of other images or classes."""
        if self.images and entry.kind == "images":
            self.image({"id": entry.names[0]})
        for name in class_names if self.categories else ():
            self.category(name, 0)

    def category(self, name: str, class_id: int) -> int | str:
        """Without a truth COCO's own ids for its names, else from 1 on."""
        if self.categories:
            if name not in self.categories:
                raise DataError(f"class {name!r}: is no category of --annotations; see --classes")
            return self.categories[name]
        return class_id + CATEGORIES_FROM


def coco_ids(annotations: Path | None, class_names: tuple[str, ...]) -> CocoIds:
    """The ids of a COCO instances file; without one, COCO's own for a model of its 80 classes."""
    if annotations is not None:
        return CocoIds(*read_coco_ids(annotations))
    if class_names == COCO_NAMES:
        return CocoIds({}, dict(zip(COCO_NAMES, COCO_IDS, strict=True)))
    return CocoIds({}, {})


def write_coco(path: Path, rows: Iterable[Row], ids: CocoIds) -> None:
    """COCO's results: what ``COCO.loadRes`` takes. Boxes are x, y, width, height in pixels.

    Raises DataError for images that would have the same id.
    """
    row_of: dict[int | str, str] = {}
    with _text_file(path) as file:
        file.write("[")
        mark = ""
        for row in rows:
            if not row["scores"]:
                continue
            image_id = ids.image(row)
            if image_id in row_of:
                raise DataError(
                    f"{path}: {row_of[image_id]} and {row['id']} are both image {image_id!r}; "
                    "predict on them apart, each with an --output of its own"
                )
            row_of[image_id] = row["id"]
            boxes = zip(
                row["class_ids"], row["class_names"], row["scores"], row["boxes"], strict=True
            )
            for class_id, name, score, corners_px in boxes:
                result = coco_result(image_id, ids.category(name, class_id), score, corners_px)
                file.write(f"{mark}\n{json.dumps(result)}")
                mark = ","
        file.write("\n]\n")


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """A line per object; an image without any, or that could not be read, has one line too."""
    with _text_file(path) as file:
        lines = csv.writer(file)
        lines.writerow(CSV_COLUMNS)
        for row in rows:
            begin = [row[name] for name in CSV_COLUMNS[:6]]
            corners = row["boxes"] or [[None] * 4] * len(row["scores"])
            objects = zip(row["class_ids"], row["class_names"], row["scores"], corners, strict=True)
            some = [[class_id, name, score, *box] for class_id, name, score, box in objects]
            for cells in some or [[None] * 7]:
                lines.writerow([*begin, *cells, row["error"]])


def write_yolo(directory: Path, rows: Iterable[tuple[Row, PurePosixPath]]) -> None:
    """A text file for each image that could be read: a class, centre, size and score per line, all
    but the class in 0..1.

    Each row comes with the place of its file below ``directory``. Raises ArtifactError.
    """
    for row, place in rows:
        if row["error"] is not None:
            continue
        width, height = row["width"], row["height"]
        lines = [
            f"{class_id} {(left + right) / 2 / width:.6f} {(top + bottom) / 2 / height:.6f} "
            f"{(right - left) / width:.6f} {(bottom - top) / height:.6f} {score:.6f}\n"
            for class_id, score, (left, top, right, bottom) in zip(
                row["class_ids"], row["scores"], row["boxes"], strict=True
            )
        ]
        target = directory / place
        with _said(target):
            atomic_write(target, "".join(lines).encode())


def write_document(path: Path, head: Mapping[str, Any], images: Iterable[Any]) -> None:
    """``--json``: the images of a run in one document, one image at a time."""
    with _text_file(path) as file:
        file.write(f'{json.dumps(dict(head), ensure_ascii=False)[:-1]}, "images": [')
        mark = ""
        for image in images:
            file.write(f"{mark}\n{json.dumps(image, ensure_ascii=False)}")
            mark = ","
        file.write("\n]}\n")


@contextmanager
def _text_file(path: Path) -> Iterator[IO[str]]:
    """A text file that appears whole. Raises ArtifactError."""
    with (
        _said(path),
        result_file(path) as place,
        place.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ArtifactError(f"{path}: cannot be written ({reason}); pass another path") from None
