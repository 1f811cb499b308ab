"""What was found, drawn: a picture for each image, a video of its size and rate for a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from detq.data.frames import Item
from detq.data.images import ImageBGR, write_image
from detq.data.remote import scheme_of
from detq.data.sources import Entry
from detq.data.video import frame_rate
from detq.errors import DataError, DetqError
from detq.files import staged
from detq.opencv import cv2
from detq.records import Detections
from detq.report.draw import draw_detections
from detq.tasks import Found

UNSTATED_FRAMES_PER_S = 30.0
Draw = Callable[[Item, ImageBGR | DetqError, Found | None, Sequence[int]], None]
"""Takes a frame, what is found in it and the ids of that; what was not read is not drawn."""


class _NoFrameError(Exception):
    """There is nothing to make a video of."""


@contextmanager
def open_pictures(
    directory: Path, entry: Entry, class_names: tuple[str, ...], *, every: int
) -> Iterator[Draw]:
    """Where the pictures of a shard go, below ``directory`` by their names.

    A video appears when it is whole. Raises DataError if a picture would replace an image of the
    source or cannot be written.
    """
    if entry.kind == "video":
        name = entry.names[0]
        target = directory / below(name, entry.base)
        if target.suffix.lower() != ".mp4":
            target = target.with_name(f"{target.name}.mp4")
        _check_place(target, directory, entry.base)
        rate = (frame_rate(Path(name)) or UNSTATED_FRAMES_PER_S) / every
        try:
            with suppress(_NoFrameError), staged(target) as path, _video(path, rate) as show:
                yield _drawing(class_names, lambda item, picture: show(picture))
        except OSError as error:
            raise DataError(f"{target}: cannot be written ({error}); see the disk") from None
        return

    def save(item: Item, picture: ImageBGR) -> None:
        target = directory / below(item.id, entry.base)
        _check_place(target, directory, entry.base)
        write_image(target, picture)

    yield _drawing(class_names, save)


def _drawing(class_names: tuple[str, ...], take: Callable[[Item, ImageBGR], None]) -> Draw:
    def draw(
        item: Item, image: ImageBGR | DetqError, found: Found | None, ids: Sequence[int]
    ) -> None:
        if isinstance(found, Detections) and not isinstance(image, DetqError):
            take(item, draw_detections(image, found, class_names, ids))

    return draw


def check_places(directory: Path, entry: Entry) -> None:
    """Raise DataError if a picture of a shard would replace an image of its source."""
    for name in entry.names if entry.kind == "images" else ():
        _check_place(directory / below(name, entry.base), directory, entry.base)


def below(name: str, base: str) -> PurePosixPath:
    """A name as a relative path without steps upwards: below ``base`` if it lies there."""
    if scheme_of(name):
        name, base = urlsplit(name)._replace(scheme="", query="", fragment="").geturl(), ""
    path, start = PurePosixPath(Path(name).as_posix()), PurePosixPath(Path(base).as_posix())
    if base and path.is_relative_to(start):
        path = path.relative_to(start)
    steps = ["__" if step == ".." else step for step in path.parts if step != path.anchor]
    return PurePosixPath(*steps)


def _check_place(target: Path, directory: Path, base: str) -> None:
    """Raise DataError for a picture in a source's folder that is there already: an image of it."""
    source = Path(base or ".").resolve()
    inside = source in directory.resolve().parents
    if not inside and target.exists() and source in target.resolve().parents:
        raise DataError(f"{target}: is an image of {base or '.'}; pass another --output")


@contextmanager
def _video(path: Path, frames_per_s: float) -> Iterator[Callable[[ImageBGR], None]]:
    writer = cv2.VideoWriter()

    def show(picture: ImageBGR) -> None:
        if not writer.isOpened():
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (picture.shape[1], picture.shape[0])
            code = cv2.VideoWriter.fourcc(*"mp4v")
            if not writer.open(str(path), cv2.CAP_FFMPEG, code, frames_per_s, size):
                raise DataError(f"{path.name}: no video of {size[0]}x{size[1]} can be written")
        writer.write(picture)

    try:
        yield show
    finally:
        writer.release()
    if not path.is_file():
        raise _NoFrameError
