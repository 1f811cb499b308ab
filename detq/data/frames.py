"""The frames of any source, each with a name that stays the same from run to run."""

from __future__ import annotations

import lzma
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from typing import IO, Self

from detq.data.images import (
    MOST_BYTES,
    ImageBGR,
    decode_image_bgr,
    decoded_ahead,
    is_image,
    read_image_bgr,
)
from detq.data.live import open_live
from detq.data.newest import watch
from detq.data.remote import (
    WEB,
    open_binary,
    open_seekable,
    read_whole,
    scheme_of,
    without_password,
)
from detq.data.sources import Entry, find_entries
from detq.data.video import read_timed
from detq.errors import DamagedImageError, DataError, DetqError


@dataclass(frozen=True)
class Item:
    """A frame: ``index`` is its number in ``source``, ``time_s`` when it is shown there.

    ``id`` is the image's name; ``archive/member``, ``video#index``.
    """

    id: str
    source: str
    index: int = 0
    time_s: float | None = None


Frames = Generator[tuple[Item, ImageBGR | DetqError]]
"""Each frame, or why there is none."""


@dataclass(frozen=True)
class Cut:
    """Which frames of a source are read: of a video or stream every ``every``-th between two times
    in seconds, of an archive or these ``most`` frames.
    """

    every: int = 1
    start_s: float = 0.0
    end_s: float | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        if self.end_s is not None and math.isnan(self.end_s):
            raise DataError("frames: --end nan is no time; pass seconds")
        if self.every < 1 or not self.start_s >= 0 or (self.most is not None and self.most < 1):
            raise DataError(
                "frames: expected --every 1 or more, --start 0 or more, --max-images 1 or more"
            )
        if self.end_s is not None and self.end_s <= self.start_s:
            raise DataError(f"frames: --end {self.end_s:g} is not after --start {self.start_s:g}")


WHOLE = Cut()
NAMES = 64
"""So many names of images are held at a time."""
_TORN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(OSError, EOFError, HTTPException, ValueError, TypeError, LookupError, ArithmeticError),
    RuntimeError,
)
"""What the standard library raises for archives that are damaged, or encrypted."""


def read_frames_of(entry: Entry, cut: Cut = WHOLE) -> Frames:
    """Every frame of a piece of work, in order, images decoded ahead of the caller.

    What cannot be read comes as the error that says so, in its turn, and reading goes on.
    """
    if entry.kind == "live":
        return _live(entry.names, cut)
    if entry.kind == "video":
        return _video(entry.names[0], cut)
    if entry.kind == "images":
        return decoded_ahead(
            (Item(without_password(name), without_password(name)), partial(_read, name))
            for name in entry.names
        )
    members = _tar_members if entry.kind == "tar" else _zip_members
    return _archive(entry.names[0], members, cut)


def read_frames(*sources: str | Path) -> Iterator[ImageBGR]:
    """The pictures of everything that :func:`find_entries` takes, decoded ahead of the caller.

    Raises DataError, at once if there is no first one, and in its turn for one that cannot be read.
    """
    pictures = _pictures([str(source) for source in sources])
    return chain([next(pictures)], pictures)


def _pictures(sources: Sequence[str]) -> Generator[ImageBGR]:
    for _, image in read_sources(sources):
        if isinstance(image, DetqError):
            raise image
        yield image


def read_sources(sources: Sequence[str]) -> Generator[tuple[Entry, ImageBGR | DetqError]]:
    """The same with the entry that each is of, and in its turn why one cannot be read.

    Raises at its end if none could be: the last such error, or DataError.
    """
    found = False
    error: DetqError | None = None
    for entry in find_entries(sources, size=NAMES):
        with closing(read_frames_of(entry)) as frames:
            for _, image in frames:
                if isinstance(image, DetqError):
                    error = image
                else:
                    found = True
                yield entry, image
    if not found:
        nothing = f"{', '.join(map(without_password, sources))}: holds no pictures"
        raise error or DataError(nothing)


def _read(name: str) -> ImageBGR:
    if scheme_of(name):
        return decode_image_bgr(read_whole(name), without_password(name))
    try:
        return read_image_bgr(Path(name))
    except ValueError as error:  # a name with a zero byte
        raise DamagedImageError(f"{name}: cannot be read ({error}); correct the list") from None


def _video(name: str, cut: Cut) -> Frames:
    shown = without_password(name)
    try:
        if scheme_of(name) and scheme_of(name) not in WEB:
            raise DataError(f"{shown}: videos in stores are not read; fetch it, and name the file")
        index = None
        for index, time_s, image in read_timed(name, cut.every, cut.start_s, cut.end_s, cut.most):
            yield Item(f"{shown}#{index}", shown, index, time_s), image
        if index is None:
            raise DataError(f"{shown}: no frame between --start and --end; the video is shorter")
    except DataError as error:
        yield Item(shown, shown), error


def _live(names: tuple[str, ...], cut: Cut) -> Frames:
    sources = [open_live(name) for name in names]
    for shot in watch(sources, every=cut.every, end_s=cut.end_s, most=cut.most):
        yield Item(f"{shot.source}#{shot.index}", shot.source, shot.index, shot.time_s), shot.image


Members = Iterator[tuple[str, bytes | DataError]]


def _archive(name: str, members: Callable[[str], Members], cut: Cut) -> Frames:
    """The images of an archive, in its order; then, if it is torn, what is the matter with it."""
    shown = without_password(name)
    torn: list[DataError] = []

    def jobs() -> Iterator[tuple[Item, Callable[[], ImageBGR]]]:
        index = 0
        try:
            with closing(members(name)) as found:  # type: ignore[type-var]
                for member, content in found:
                    if cut.most is not None and index >= cut.most:
                        return
                    id_ = f"{shown}/{member}"
                    yield Item(id_, shown, index), partial(_decode, content, id_)
                    index += 1
        except DataError as error:
            torn.append(error)

    yield from decoded_ahead(jobs())
    for error in torn:
        yield Item(shown, shown), error


def _decode(content: bytes | DataError, name: str) -> ImageBGR:
    if isinstance(content, DataError):
        raise content
    return decode_image_bgr(content, name)


def _noting_end(end: list[object]) -> type[tarfile.TarInfo]:
    """Headers of a tar; the one of zeros that ends it is put into ``end``.

    ``tarfile`` takes a file that was cut between two members for a whole one.
    """

    class Header(tarfile.TarInfo):
        @classmethod
        def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
            try:
                return super().fromtarfile(archive)
            except tarfile.EOFHeaderError as error:  # type: ignore[attr-defined]
                end.append(error)
                raise

    return Header


def _tar_members(name: str) -> Members:
    with open_binary(name) as file:
        try:
            end: list[object] = []
            with tarfile.open(fileobj=file, mode="r|*", tarinfo=_noting_end(end)) as archive:
                for member in archive:
                    if member.isreg() and is_image(Path(member.name)):
                        yield member.name, _bounded(archive.extractfile(member), name, member.name)
                if not end:
                    raise tarfile.ReadError("its end is missing")
        except _TORN as error:
            raise _torn(name, error) from None


def _zip_members(name: str) -> Members:
    with open_seekable(name) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    if not member.is_dir() and is_image(Path(member.filename)):
                        yield member.filename, _from_zip(archive, member, name)
        except _TORN as error:
            raise _torn(name, error) from None


def _from_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> bytes | DataError:
    try:
        with archive.open(member) as file:
            return _bounded(file, name, member.filename)
    except _TORN as error:
        return DamagedImageError(f"{without_password(name)}/{member.filename}: {error}; replace it")


def _bounded(file: IO[bytes] | None, name: str, member: str) -> bytes | DataError:
    content = b"" if file is None else file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        return DataError(
            f"{without_password(name)}/{member}: has more than {MOST_BYTES} bytes; leave it out"
        )
    return content


def _torn(name: str, error: BaseException) -> DataError:
    return DamagedImageError(
        f"{without_password(name)}: the archive cannot be read on ({error}); replace the file"
    )
