"""Models and data sets by name, from a folder of the user's that fills as they are asked for.

``DETQ_CACHE`` names another folder. ``DETQ_MIRROR`` names an address that has the files under their
own names, for networks that reach nothing else.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from pathlib import Path

from detq.downloads.catalog import Archive, file_name, find_dataset, find_model
from detq.downloads.digests import check_arrived, is_intact, record_of
from detq.downloads.lock import exclusive
from detq.downloads.resumable import download, not_writable
from detq.downloads.unpack import unpack
from detq.errors import DownloadError
from detq.files import clear_place
from detq.progress import Progress, silent


def cache_folder() -> Path:
    """Where downloads are kept: ``$DETQ_CACHE``, or else the platform's folder for caches.

    Raises DownloadError if that is in a home directory, and the user has none.
    """
    chosen = os.environ.get("DETQ_CACHE")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        return _platform_folder() / "detq"
    except RuntimeError:  # a container whose user is in no list of users
        raise DownloadError(
            "there is no home directory to keep downloads in; set DETQ_CACHE to a folder that can "
            "be written"
        ) from None


def _platform_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification: a relative path is to be ignored.
    return base if base.is_absolute() else Path.home() / ".cache"


def obtain_model(name: str, *, progress: Progress = silent) -> Path:
    """Name -> checkpoint file, downloaded unless the cache has it undamaged.

    Raises DownloadError.
    """
    model = find_model(name)
    path = cache_folder() / "models" / file_name(model.url)
    try:
        if not is_intact(path, model.digest):
            with exclusive(path):
                if not is_intact(path, model.digest):  # another process may have put it right
                    _remove(path)
            _fetch(model.url, path, progress, name)
            check_arrived(path, model.digest, model.url)
            is_intact(path, model.digest)
    except OSError as error:
        raise not_writable(path, error) from None
    return path


def obtain_dataset(name: str, *, progress: Progress = silent) -> Path:
    """Name -> folder, downloaded and unpacked unless the cache has it. Raises DownloadError.

    The folder appears by a rename when all of it is there. A stopped run keeps the archives that it
    has unpacked and the part of the one that it was downloading.
    """
    dataset = find_dataset(name)
    folder = cache_folder() / "data" / name
    if folder.is_dir():
        return folder
    try:
        with exclusive(folder):
            if not folder.is_dir():  # another process may have made it meanwhile
                folder.unlink(missing_ok=True)
                _assemble(dataset.archives, folder, progress)
    except OSError as error:
        raise not_writable(folder, error) from None
    return folder


def is_cached(path: Path) -> bool:
    """True for a model file that :func:`obtain_model` put there, not one of the user's own."""
    try:
        return path.is_file() and path.absolute().parent == cache_folder() / "models"
    except DownloadError:  # no folder, no cache
        return False


def forget(path: Path) -> bool:
    """Delete a downloaded model that turned out not to load; True if it was one.

    A login page of a public network, for instance, arrives as a complete file. A file that the user
    passed is none of the cache's and stays.
    """
    if not is_cached(path):
        return False
    _remove(path)
    return True


def _remove(path: Path) -> None:
    """Whatever is there: a damaged file, a folder, a dead link; and what is kept about it."""
    clear_place(path)
    for part in (path, record_of(path)):
        part.unlink(missing_ok=True)


def _assemble(archives: tuple[Archive, ...], folder: Path, progress: Progress) -> None:
    """Download and unpack one archive after the other, so that they never lie here all at once."""
    staging = folder.with_name(f".{folder.name}.unpacking")
    for archive in archives:
        part = staging / "dataset" / archive.becomes
        path = folder.parent / file_name(archive.url)
        if not part.is_dir():
            clear_place(path)
            _fetch(archive.url, path, progress, path.name)
            check_arrived(path, archive.digest, archive.url)
            report = partial(progress, f"unpacking {path.name}")
            unpack(path, archive.holds, part, scratch=staging / "archive", progress=report)
        path.unlink(missing_ok=True)
    (staging / "dataset").replace(folder)
    shutil.rmtree(staging, ignore_errors=True)


def _fetch(url: str, path: Path, progress: Progress, what: str) -> None:
    mirror = os.environ.get("DETQ_MIRROR")
    address = f"{mirror.rstrip('/')}/{file_name(url)}" if mirror else url
    download(address, path, progress=partial(progress, f"downloading {what}"))
