"""Files below a folder, one after another, however many there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from errno import ELOOP
from pathlib import Path

from detq.errors import DataError


class Walk:
    """The files below ``folder`` whose names are ``wanted``, by name, as an iterable of paths.

    Symbolic links are followed, and each folder is read once, so links that lead in a circle have
    an end. A folder keeps its own name where a link beside it gives it another: those that links
    alone lead to come last. ``skipped_folders`` counts links to a folder that was read already, or
    to themselves; ``others`` the files that are not wanted but ``counted``. Only the names of one
    folder at a time are held. Iterating raises DataError for a folder that cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        wanted: Callable[[Path], bool],
        counted: Callable[[Path], bool] = lambda path: False,
    ) -> None:
        self.skipped_folders = 0
        self.others = 0
        self._folder = folder
        self._wanted, self._counted = wanted, counted
        self._read: set[tuple[int, int]] = set()

    def __iter__(self) -> Iterator[str]:
        self.skipped_folders = self.others = 0
        self._read.clear()
        linked: list[str] = [os.fspath(self._folder)]
        for folder in linked:  # grows meanwhile
            yield from self._below(folder, linked)

    def _below(self, folder: str, linked: list[str]) -> Iterator[str]:
        waiting: list[str | Iterator[os.DirEntry[str]]] = [folder]
        while waiting:
            here = waiting.pop()
            entries = self._entries(here) if isinstance(here, str) else here
            for entry in entries:
                is_folder = _is_folder(entry)
                if is_folder is None:
                    self.skipped_folders += 1
                elif is_folder:
                    if entry.is_symlink():
                        linked.append(entry.path)
                        continue
                    waiting += [entries, entry.path]  # first what is below it
                    break
                elif self._wanted(path := Path(entry.name)):
                    yield entry.path
                else:
                    self.others += self._counted(path)

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            status = Path(folder).stat()
            identity = (status.st_dev, status.st_ino)
            if identity in self._read:
                self.skipped_folders += 1
                return iter(())
            self._read.add(identity)
            with os.scandir(folder) as entries:
                return iter(sorted(entries, key=lambda entry: entry.name))
        except OSError as error:
            raise DataError(
                f"{folder}: cannot be read ({error.strerror}); check the path"
            ) from None


def _is_folder(entry: os.DirEntry[str]) -> bool | None:
    """None for a link that leads to itself; one that leads nowhere is no folder."""
    try:
        return entry.is_dir()
    except OSError as error:
        return None if error.errno == ELOOP else False
