"""The parts of a COCO instances JSON, item by item: its text is in memory, its objects are not.

As objects of Python they would take seven times as much.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError

from detq.errors import DataError, shown
from detq.files import read_text

MOST_BYTES = 16 << 30
"""COCO's own of train2017 have 450 MB."""
_WHITE = re.compile(r"[ \t\n\r]*")
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


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
        document, starts = self._text, self._starts
        if part not in starts:
            raise self._no_coco(part, "missing")
        if document[starts[part]] != "[":
            raise self._no_coco(part, "expected a list")
        yield from (item for item, _ in _elements(document, starts[part]))

    @cached_property
    def _text(self) -> str:
        try:
            return read_text(self.path, most_bytes=MOST_BYTES)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read ({error.strerror}); check the path"
            ) from None

    @cached_property
    def _starts(self) -> dict[str, int]:
        """Where the value of each key begins. The text is sound then."""
        starts: dict[str, int] = {}
        try:
            for key, start in _members(self._text):
                if key in starts:
                    raise self._no_coco("file", f"has the key {shown(key)} twice")
                starts[key] = start
        except RecursionError:
            raise self._no_coco("file", "is nested too deeply") from None
        except ValueError as error:
            raise self._no_coco("file", str(error)) from None
        return starts

    def _no_coco(self, where: str, problem: str) -> DataError:
        return DataError(f"{self.path}: not a COCO instances file ({where}: {problem})")


def _members(text: str) -> Iterator[tuple[str, int]]:
    """Every key of the outermost object, and where its value begins. Raises ValueError."""
    at = _next(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError("expected an object")
    at = _next(text, at + 1)
    while text[at : at + 1] != "}":
        key, at = _value(text, at)
        at = _next(text, at)
        if not isinstance(key, str) or text[at : at + 1] != ":":
            raise json.JSONDecodeError("expected a key in quotes and a colon", text, at)
        at = _next(text, at + 1)
        yield key, at
        if text[at : at + 1] == "[":
            end = _next(text, at + 1)
            for _, end in _elements(text, at):  # noqa: B007 - the last one
                pass
            at = end + 1
        else:
            _, at = _value(text, at)
        at = _comma(text, at, "}")
    if _next(text, at + 1) < len(text):
        raise json.JSONDecodeError("more behind its end", text, at + 1)


def _elements(text: str, at: int) -> Iterator[tuple[Any, int]]:
    """Of the list that begins there each element, and where the next one or the list's end is.

    Raises ValueError.
    """
    at = _next(text, at + 1)
    while text[at : at + 1] != "]":
        item, at = _value(text, at)
        at = _comma(text, at, "]")
        yield item, at


def _comma(text: str, at: int, end: str) -> int:
    """Where the next one begins, or ``end``."""
    at = _next(text, at)
    if text[at : at + 1] == ",":
        at = _next(text, at + 1)
        if text[at : at + 1] != end:
            return at
    elif text[at : at + 1] == end:
        return at
    raise json.JSONDecodeError(f"expected a comma or {end}", text, at)


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        return _scan(text, at)
    except StopIteration:
        raise json.JSONDecodeError("expected a value", text, at) from None


def _next(text: str, at: int) -> int:
    """The next place that is not white."""
    found = _WHITE.match(text, at)
    return at if found is None else found.end()
