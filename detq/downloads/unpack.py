"""Unpack a downloaded zip: all of the folder that is wanted, or nothing."""

from __future__ import annotations

import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from detq.downloads.resumable import require_space
from detq.errors import DownloadError
from detq.progress import Steps

_BLOCK_BYTES = 1 << 20
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class _UselessError(Exception):
    """The archive is damaged or not the one that was expected."""


def unpack(
    path: Path, holds: str, becomes: Path, *, scratch: Path, progress: Steps | None = None
) -> None:
    """The folder ``holds`` of the zip at ``path`` -> ``becomes``, by a rename at the end.

    ``scratch`` is a folder on the same disk, emptied before and after. A useless archive is
    deleted, so that the next run downloads it again. Raises DownloadError; OSError on a full disk.
    """
    _remove(scratch)
    try:
        _extract(path, scratch, progress)
        if not (scratch / holds).is_dir():
            raise _UselessError(f"it holds no folder {holds}")
    except _UselessError as error:
        path.unlink(missing_ok=True)
        reason = " ".join(str(error).split())
        raise DownloadError(
            f"{path}: cannot be unpacked ({reason}); it was deleted, run the command again to "
            f"download it anew"
        ) from None
    else:
        becomes.parent.mkdir(parents=True, exist_ok=True)
        (scratch / holds).replace(becomes)
    finally:
        _remove(scratch)


def _extract(path: Path, folder: Path, progress: Steps | None) -> None:
    try:
        archive = zipfile.ZipFile(path)
    except _BROKEN_ZIP as error:
        raise _UselessError(error) from None
    with archive:
        entries = archive.infolist()
        for entry in entries:
            _check_inside(entry.filename)
        total, done = sum(entry.file_size for entry in entries), 0
        folder.mkdir(parents=True, exist_ok=True)
        require_space(folder, total, str(path))
        for entry in entries:
            place = folder / entry.filename
            if entry.is_dir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as file:
                for block in _blocks(archive, entry):
                    file.write(block)
                    done += len(block)
                    if progress:
                        progress(done, total)


def _blocks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """An entry's content. Its check sum is compared at the end of it."""
    try:
        with archive.open(entry) as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
    except _BROKEN_ZIP as error:
        raise _UselessError(f"{entry.filename}: {error}") from None


def _check_inside(name: str) -> None:
    """Refuse a name that leaves the folder on any system: up, from the root, or another drive."""
    steps = PurePosixPath(name)
    if not steps.parts:
        raise _UselessError("an entry has no name")
    if steps.is_absolute() or ".." in steps.parts or "\\" in name or ":" in name:
        raise _UselessError(f"its entry {name!r} would leave the folder")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
