"""The file that ``torch.save`` wrote before release 1.6: pickles one after the other, then numbers.

A magic number, a protocol version, facts about the machine, the object itself, the list of storage
keys; then, in the order of that list, each storage's length and its numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detq.adapters.archive import MAX_FILE_BYTES, Archive
from detq.adapters.other_programs import explain_name
from detq.adapters.unpickle import (
    DamagedPickleError,
    ForbiddenNameError,
    Storage,
    unpickle_series,
)
from detq.errors import CheckpointError
from detq.files import open_regular, read_bytes

_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number, pickled
_PROTOCOL = 1001
_PICKLES = 5
_COUNT = struct.Struct("<q")
_CUT_SHORT = "the file is damaged or cut short; download or copy it again"


class LegacyArchive(Archive):
    """A file of the old format, read like a new one."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self.byte_count = len(content)
        self._numbers: dict[Storage, npt.NDArray[np.generic]] = {}
        try:
            objects, storages, end = unpickle_series(content, _PICKLES)
        except ForbiddenNameError as error:
            explanation = explain_name(str(error)) or f"refers to {error}"
            raise CheckpointError(f"{path}: {explanation}; nothing in it was run") from None
        except DamagedPickleError as error:
            raise CheckpointError(
                f"{path}: no checkpoint that torch saved ({error}), nothing in it was run"
            ) from None
        _, protocol, machine, self.root, keys = objects
        little = isinstance(machine, dict) and machine.get("little_endian") is True
        if protocol != _PROTOCOL or not little or not isinstance(keys, list):
            raise CheckpointError(f"{path}: a form of torch's old format that detq does not read")
        self._read_storages(content[end:], keys, storages)

    def _read_storages(
        self, numbers: bytes, keys: list[object], storages: Mapping[str, Storage]
    ) -> None:
        place = 0
        for key in keys:
            storage = storages.get(str(key))
            if storage is None or len(numbers) < place + _COUNT.size:
                raise CheckpointError(f"{self.path}: {_CUT_SHORT}")
            (count,) = _COUNT.unpack_from(numbers, place)
            place += _COUNT.size
            dtype = np.dtype(storage.dtype)
            if count != storage.count or len(numbers) < place + count * dtype.itemsize:
                raise CheckpointError(f"{self.path}: {_CUT_SHORT}")
            self._numbers[storage] = np.frombuffer(numbers, dtype, count, place)
            place += count * dtype.itemsize
        if not set(storages.values()) <= self._numbers.keys():
            raise CheckpointError(f"{self.path}: {_CUT_SHORT}")


def is_legacy(path: Path) -> bool:
    """True if the file begins as the old format does."""
    try:
        with open_regular(path) as file:
            return file.read(len(_START)) == _START
    except OSError:
        return False


@contextmanager
def open_legacy(path: Path) -> Iterator[Archive]:
    """Open a file of the old format. Raises CheckpointError if it is damaged or unsafe."""
    try:
        content = read_bytes(path, most_bytes=MAX_FILE_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    yield LegacyArchive(path, content)
