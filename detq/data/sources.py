"""What a user names as a source, taken apart into pieces of work.

Images, folders, patterns, lists, archives, videos, cameras, streams, and files in stores; however
many there are, only one folder's names are held at a time.
"""

from __future__ import annotations

import glob
import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import chain, count, islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from detq.data.folders import Walk
from detq.data.images import IMAGE_SUFFIXES, is_image
from detq.data.remote import WEB, names_in_store, open_seekable, scheme_of, without_password
from detq.data.video import VIDEO_SUFFIXES
from detq.errors import DataError
from detq.extras import require
from detq.files import encoding_of

Kind = Literal["images", "tar", "zip", "video", "live"]
Wide = Kind | Literal["list", "folder", "pattern"]
Named = Iterator[tuple[str, Kind]]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LIST_SUFFIXES = (".txt", ".parquet")
LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "udp", "tcp", "srt", "mms"})
LIST_COLUMNS = ("path", "url", "image_url", "image_path", "file_name", "filename", "uri", "image")
"""Where a Parquet file may hold names, the first that it has."""
_CAMERA = re.compile(r"(?:/dev/video)?\d+")
_PATTERN = re.compile(r"[*?[]")
_QUERY = re.compile(r"[?#]")


@dataclass(frozen=True)
class Entry:
    """Frames that belong together: some images, or one archive, video or set of live sources.

    ``names`` begin as the user wrote them; ``base`` is the folder below which their pictures are
    named, e.g. the one that was walked.
    """

    kind: Kind
    names: tuple[str, ...]
    base: str = ""

    @property
    def images(self) -> int | None:
        """How many there are; None if only reading tells."""
        return len(self.names) if self.kind == "images" else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"kind": self.kind, "names": list(self.names), "base": self.base}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Entry:
        """What :meth:`to_dict` gave."""
        return cls(values["kind"], tuple(values["names"]), values["base"])


def find_entries(
    sources: Sequence[str], *, size: int, most: int | None = None, without: Path | None = None
) -> Iterator[Entry]:
    """The work that sources are, in a fixed order: images in pieces of ``size``, live sources last.

    ``most`` images are taken of each source that lists images; what lies below ``without`` is
    not, so that a run does not read its own pictures. Raises DataError for a source that is none.
    """
    live: list[str] = []
    for source in sources:
        if kind_of(source) == "live":
            live.append(source)
        else:
            yield from _pieces(source, size, most, without)
    if live:
        yield Entry("live", tuple(live))


def kind_of(name: str) -> Wide:
    """What a name stands for. Raises DataError."""
    scheme = scheme_of(name)
    if scheme in LIVE_SCHEMES or _CAMERA.fullmatch(name):
        return "live"
    return _kind_in_store(name, scheme) if scheme else _kind_of_path(name)


def _kind_in_store(name: str, scheme: str) -> Wide:
    if scheme not in WEB and _PATTERN.search(name):
        return "pattern"
    # On the web what has no ending is a stream of pictures, in a store it is a folder.
    kind = _kind_by_ending(_place(name))
    return kind or ("live" if scheme in WEB else "folder")


def _kind_of_path(name: str) -> Wide:
    path = Path(name)
    if not _is_there(path):
        if _PATTERN.search(name):
            return "pattern"
        raise DataError(f"{name}: no such image or folder; check the path")
    if path.is_dir():
        return "folder"
    kind = _kind_by_ending(path)
    if kind is None:
        known = " ".join(sorted({*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, *TAR_SUFFIXES, *LIST_SUFFIXES}))
        raise DataError(f"{name}: not an image or another source by its name; known: {known} .zip")
    return kind


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # e.g. too long for a name
        return False


def _place(name: str) -> PurePosixPath | Path:
    """A name's path, without host and query."""
    scheme = scheme_of(name)
    if not scheme:
        return Path(name)
    place = name.partition("://")[2].partition("/")[2]
    return PurePosixPath(_QUERY.split(place)[0] if scheme in WEB else place)


def _kind_by_ending(path: PurePosixPath | Path) -> Kind | Literal["list"] | None:
    name, suffix = path.name.lower(), path.suffix.lower()
    if name.endswith(TAR_SUFFIXES):
        return "tar"
    if suffix == ".zip":
        return "zip"
    if suffix in LIST_SUFFIXES:
        return "list"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return "images" if suffix in IMAGE_SUFFIXES else None


def _pieces(source: str, size: int, most: int | None, without: Path | None) -> Iterator[Entry]:
    kind = kind_of(source)
    named: Named
    if kind == "list":
        named = ((name, "images") for name in _placed(listed(source), source))
    elif kind == "folder":
        named = _kinds_below(source, without)
    elif kind == "pattern":
        named = _kinds_of(_matching(source))
    else:
        named = iter([(source, kind)])
    base = source if kind == "folder" else _PATTERN.split(source)[0].rpartition("/")[0]
    yield from _grouped(source, islice(named, most), size, base)


def _placed(names: Iterator[str], source: str) -> Iterator[str]:
    """Relative names start at the list's folder or, if the first is not there, where we are; those
    of a list in a store where we are, if the first is there, or else at its folder.
    """
    first = next(names, None)
    if first is None:
        return
    is_here = not scheme_of(first) and _is_there(Path(first))
    if scheme := scheme_of(source):
        address = _QUERY.split(source)[0] if scheme in WEB else source
        folder = "" if is_here else f"{address.rpartition('/')[0]}/"
    else:
        beside = Path(source).parent
        is_beside = scheme_of(first) or _is_there(beside / first)
        folder = str(beside) if is_beside or not is_here else ""
    for name in chain([first], names):
        if scheme_of(name):
            yield name
        elif scheme_of(folder) and not Path(name).is_absolute():
            yield f"{folder}{name}"
        else:
            yield str(Path(folder) / name)


def _grouped(source: str, named: Named, size: int, base: str) -> Iterator[Entry]:
    """Neighbouring images together, all else on its own. Raises DataError if there is nothing."""
    images: list[str] = []
    found = False
    for name, kind in named:
        found = True
        if kind == "images":
            images.append(name)
        else:
            if images:
                yield Entry("images", tuple(images), base)
                images = []
            yield Entry(kind, (name,), base)
        if len(images) == size:
            yield Entry("images", tuple(images), base)
            images = []
    if images:
        yield Entry("images", tuple(images), base)
    if not found:
        looked = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{without_password(source)}: no images; looked for {looked}")


def _kinds_of(names: Iterable[str]) -> Named:
    for name in names:
        kind = _kind_by_ending(Path(name))
        if kind is not None and kind != "list" and not Path(name).name.startswith("."):
            yield name, kind


def _kinds_below(folder: str, without: Path | None) -> Named:
    if scheme_of(folder):
        return _kinds_of(names_in_store(folder, is_pattern=False))
    names = iter(Walk(Path(folder), wanted=_is_read))
    if without is not None and Path(folder).resolve() in without.resolve().parents:
        inside = without.resolve()
        names = (name for name in names if inside not in Path(name).resolve().parents)
    return _kinds_of(names)


def _is_read(path: Path) -> bool:
    return is_image(path) or _kind_by_ending(path) in ("tar", "zip", "video")


def _matching(pattern: str) -> list[str]:
    if scheme_of(pattern):
        return names_in_store(pattern, is_pattern=True)
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - as the user wrote them


def listed(source: str) -> Iterator[str]:
    """The names in a text file (UTF-8, or UTF-16 with its mark), one per line, or in a column of a
    Parquet file.

    Raises DataError if it cannot be read or has no such column (:data:`LIST_COLUMNS`).
    """
    if _place(source).suffix.lower() == ".parquet":
        yield from _column(source)
        return
    shown = without_password(source)
    file = open_seekable(source)
    encoding = encoding_of(file.read(2))
    file.seek(0)
    with TextIOWrapper(file, encoding=encoding) as lines:
        try:
            for line in lines:
                if line.strip():
                    yield line.strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{shown}: cannot be read ({error}); save it as UTF-8") from None


def _column(source: str) -> Iterator[str]:
    shown = without_password(source)
    parquet = pyarrow_parquet(shown)
    with closing(open_seekable(source)) as file:
        try:
            table = parquet.ParquetFile(file)
            names = [field.name for field in table.schema_arrow]
            column = next((name for name in LIST_COLUMNS if name in names), None)
            if column is None:
                raise DataError(
                    f"{shown}: none of the columns {', '.join(LIST_COLUMNS)}; it has "
                    f"{', '.join(names)}: rename the one with paths or addresses"
                )
            numbers = count()
            for batch in table.iter_batches(columns=[column]):
                values = batch.column(0).to_pylist()
                if not all(isinstance(value, str | None) for value in values):
                    raise DataError(
                        f"{shown}: column {column} holds something else than text; fill it with "
                        "paths or addresses"
                    )
                for value, number in zip(values, numbers, strict=False):
                    # no file has such a name: what is empty becomes a row that says where
                    yield f"{_place(source).name}[{number}]" if value is None else value
        except (OSError, ValueError, TypeError, LookupError, RuntimeError) as error:  # pyarrow's
            raise DataError(f"{shown}: cannot be read ({error}); replace the file") from None


def pyarrow_parquet(name: str) -> Any:
    """pyarrow's module for Parquet. Raises MissingLibraryError, naming ``name``, without it."""
    require(name, "pyarrow")
    return importlib.import_module("pyarrow.parquet")
