"""What was measured, in a file of JSON lines that a run may be cut off from at any moment.

Beside the file, in a folder of its name, lie the INT8 models for latencies and, for every row, how
its detections match image by image with the scores of resampled images.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from detq.errors import DetqError
from detq.files import read_text, staged, try_lock

Key = tuple[str, str, int]
"""(model, recipe, seed)"""
Row = dict[str, Any]
Arrays = Mapping[str, npt.NDArray[Any]]
FLOAT, LATENCY = "float", "latency"
_MOST_BYTES = 1 << 30


class Results:
    """The rows of one file. Of two with one key the later one counts."""

    def __init__(self, path: Path) -> None:
        """Raises DetqError for a path that is no file's."""
        self.path, self.folder = path, path.with_suffix("")
        if path.is_dir() or not path.suffix:
            raise DetqError(
                f"{path}: is the name of a folder; --results takes a file, {path / 'results.jsonl'}"
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Raises DetqError while another run does this: two would measure latencies at one time."""
        self._make_folder()
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            if not try_lock(descriptor):
                raise DetqError(
                    f"{self.path}: another run measures into it; wait for it, or pass --results"
                )
            yield
        finally:
            os.close(descriptor)

    def rows(self) -> dict[Key, Row]:
        """By their keys, in the order in which they were first written."""
        if not self.path.exists():
            return {}
        text = read_text(self.path, most_bytes=_MOST_BYTES)
        found = {}
        whole = text[: text.rfind("\n") + 1].splitlines()  # the last may be half a line
        for number, line in enumerate(whole, start=1):
            try:
                row = json.loads(line)
                found[key_of(row)] = row
            except (ValueError, KeyError, TypeError):
                raise DetqError(
                    f"{self.path}:{number}: no row of tools/zoo.py; delete the line, or pass "
                    "another file with --results"
                ) from None
        return found

    def add(self, row: Row, arrays: Arrays | None = None) -> None:
        """The line comes last, so that all that belongs to it is there."""
        self._make_folder()
        if arrays is not None:
            with staged(self.arrays_file(key_of(row))) as path, path.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        with self.path.open("ab+") as file:
            file.seek(0)
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DetqError(
                f"{self.folder}: cannot be made: {error.strerror}; pass --results"
            ) from None

    def arrays(self, key: Key) -> dict[str, npt.NDArray[Any]]:
        """What was kept of a row. Raises DetqError if that is gone or damaged."""
        path = self.arrays_file(key)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return dict(stored)
        except (OSError, ValueError, EOFError, BadZipFile):
            state = "damaged" if path.exists() else "missing"
            raise DetqError(
                f"{path}: is {state}, and belongs to {self.path}; bring its folder back, or delete "
                "both and measure again"
            ) from None

    def arrays_file(self, key: Key) -> Path:
        model, recipe, seed = key
        return self.folder / f"{_file_name(model)}_{_file_name(recipe)}_{seed}.npz"

    def graph_file(self, model: str, recipe: str) -> Path:
        """Where the INT8 model of the first seed is kept for latencies."""
        return self.folder / f"{_file_name(model)}_{_file_name(recipe)}.xml"


def key_of(row: Row) -> Key:
    return row["model"], row["recipe"], row["seed"]


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-.=" else "_" for letter in name)
