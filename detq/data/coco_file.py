"""The parts of a COCO instances JSON, item by item, however large it is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

import ijson
from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic_core import from_json

from detq.errors import DataError, one_line
from detq.files import read_text, text_pieces

STREAMED_FROM_BYTES = 128 << 20
"""A larger file is not held in memory, where it would take seven times as much."""
MOST_BYTES = 64 << 30
"""COCO's own of train2017 have 450 MB."""


def _id(value: Any) -> Any:
    """``"1"`` and ``1.0`` are 1; other text stays: some programs number images by a hash."""
    if isinstance(value, bool) or not isinstance(value, str | float):
        return value
    try:
        number = float(value)
        return int(value) if isinstance(value, str) and "." not in value else _whole(number, value)
    except (ValueError, OverflowError):
        return value


def _whole(number: float, value: Any) -> Any:
    return int(number) if number.is_integer() else value


def as_text(value: Any) -> Any:
    """A category may be called ``1`` or ``true`` without quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _flag(value: Any) -> Any:
    return False if value is None else value


Id = Annotated[int | str, BeforeValidator(_id)]


class CocoImage(BaseModel):
    """An image that the file lists."""

    id: Id
    file_name: str


class CocoCategory(BaseModel):
    """A class of objects, or a group of classes."""

    id: Id
    name: Annotated[str, BeforeValidator(as_text)]
    supercategory: Any = None


class CocoObject(BaseModel):
    """An object in an image; ``bbox`` is left, top, width, height in pixels."""

    id: Id | None = None
    image_id: Id
    category_id: Id
    bbox: list[float] | None = None
    area: float | None = None
    iscrowd: Annotated[bool, BeforeValidator(_flag)] = False
    segmentation: Any = None


_ItemT = TypeVar("_ItemT", bound=BaseModel)


class CocoFile:
    """A COCO instances JSON. Whatever is asked of it raises DataError if it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def images(self) -> list[CocoImage]:
        """One or more."""
        return self._some("images", CocoImage)

    def categories(self) -> list[CocoCategory]:
        """One or more."""
        return self._some("categories", CocoCategory)

    def objects(self) -> Iterator[CocoObject]:
        """Every object, in the order of the file; none of them stays in memory."""
        return self._items("annotations", CocoObject)

    def _some(self, part: str, kind: type[_ItemT]) -> list[_ItemT]:
        items = list(self._items(part, kind))
        if not items:
            raise self._no_coco(part, "expected at least one")
        return items

    def _items(self, part: str, kind: type[_ItemT]) -> Iterator[_ItemT]:
        for index, item in enumerate(self._raw(part)):
            try:
                yield kind.model_validate(item)
            except ValidationError as error:
                problem = error.errors()[0]
                where = ".".join(str(step) for step in (part, index, *problem["loc"]))
                raise self._no_coco(where, problem["msg"]) from None

    def _raw(self, part: str) -> Iterator[Any]:
        try:
            if self.path.stat().st_size >= STREAMED_FROM_BYTES:
                yield from self._streamed(part)
                return
            document = self._document
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read ({error.strerror}); check the path"
            ) from None
        except (ValueError, ijson.JSONError) as error:
            raise self._no_coco("file", one_line(str(error))) from None
        if not isinstance(document, dict):
            raise self._no_coco("file", "expected an object")
        self._check_list(part, document.get(part, ...))
        yield from document[part]

    @cached_property
    def _document(self) -> Any:
        return from_json(read_text(self.path, most_bytes=MOST_BYTES), allow_inf_nan=True)

    def _streamed(self, part: str) -> Iterator[Any]:
        item = None
        for item in self._parsed(f"{part}.item"):
            yield item
        if item is None:
            self._check_list(part, next(self._parsed(part), ...))

    def _parsed(self, place: str) -> Iterator[Any]:
        pieces = text_pieces(self.path, most_bytes=MOST_BYTES)
        yield from ijson.items(ijson.from_iter(pieces), place, use_float=True)

    def _check_list(self, part: str, content: Any) -> None:
        if not isinstance(content, list):
            raise self._no_coco(part, "missing" if content is ... else "expected a list")

    def _no_coco(self, where: str, problem: str) -> DataError:
        return DataError(f"{self.path}: not a COCO instances file ({where}: {problem})")
