"""Which graph files have been tried on this machine already, by what is in them."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import openvino as ov

from detq.downloads.cache import cache_folder
from detq.errors import DownloadError
from detq.files import open_regular

MOST_MARKS = 1000


def is_trusted(path: Path) -> bool:
    """True for an ``.onnx`` or ``.xml`` that :func:`trust` was told of, unchanged since."""
    try:
        return _mark(path).is_file()
    except (OSError, DownloadError):  # no such folder, or no home directory to have one
        return False


def trust(path: Path) -> None:
    """Remember that this version of OpenVINO reads, compiles and runs the file.

    Without effect where the cache folder cannot be written: the file is tried again then.
    """
    with suppress(OSError, DownloadError):
        mark = _mark(path)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        marks = sorted(mark.parent.iterdir(), key=lambda each: each.stat().st_mtime)
        for old in marks[:-MOST_MARKS]:
            old.unlink(missing_ok=True)


def _mark(path: Path) -> Path:
    """An empty file, named by the content of the graph, of its weights, and by OpenVINO's version.

    Raises OSError.
    """
    found = hashlib.sha256(ov.get_version().encode())
    for part in (path, path.with_suffix(".bin")):
        if part == path or (path.suffix.lower() == ".xml" and part.exists()):
            with open_regular(part) as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return cache_folder() / "tried" / found.hexdigest()
