"""The zip archive that ``torch.save`` writes: one pickle, and one record per storage.

Everything a file declares about itself is checked before it is believed.
"""

from __future__ import annotations

import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detq.adapters.other_programs import explain_name
from detq.adapters.unpickle import (
    DamagedPickleError,
    ForbiddenNameError,
    Storage,
    StoredTensor,
    unpickle,
)
from detq.errors import CheckpointError, shown
from detq.files import in_place_of, open_regular

MAX_FILE_BYTES = 8 << 30
MAX_PICKLE_BYTES = 16 << 20
MAX_RECORDS = 200_000
MAX_DIRECTORY_BYTES = 64 << 20
MAX_DIMENSIONS = 8

_ZIP_TAIL = 22 + (1 << 16)
"""The record that ends a zip, and the longest comment behind it."""
_ZIP_MAGIC = b"PK\x03\x04"
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
_WRONG_FILE = "Pass a file that the training of YOLOv6 or Ultralytics wrote"
_CUT_SHORT = "the file is damaged or cut short; download or copy it again"


class Archive:
    """An open checkpoint: ``root`` is the pickled object, in inert values."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path = path
        self.byte_count = path.stat().st_size
        self._file = file
        self._numbers: dict[Storage, npt.NDArray[np.generic]] = {}
        self._prefix = self._find_prefix()
        self._check_records()
        self.root = self._unpickle()

    def read(self, key: str, tensor: StoredTensor) -> npt.NDArray[np.generic]:
        """The numbers of a tensor as a new array in native byte order.

        Raises CheckpointError, naming ``key``, if the tensor reaches beyond its storage.
        """
        numbers = self._storage(tensor.storage)
        problem = _view_problem(tensor)
        if problem:
            raise CheckpointError(f"{self.path}: tensor {key} {problem}; {_CUT_SHORT}")
        strides = [step * numbers.itemsize for step in tensor.strides]
        view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides)
        return view.astype(view.dtype.newbyteorder("="), copy=True)

    def _find_prefix(self) -> str:
        names = self._file.namelist()
        if any(name.split("/")[1:] == ["constants.pkl"] for name in names):
            raise CheckpointError(
                f"{self.path}: a TorchScript; export the network to ONNX where it was trained and "
                "pass the .onnx"
            )
        pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise CheckpointError(
                f"{self.path}: a zip archive, but not one that torch.save writes (no data.pkl). "
                f"{_WRONG_FILE}"
            )
        return pickles[0].removesuffix("data.pkl")

    def _check_records(self) -> None:
        """Records are stored uncompressed and fit in the file, so nothing can inflate."""
        records = self._file.infolist()
        declared = sum(record.file_size for record in records)
        compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
        if compressed or len(records) > MAX_RECORDS or declared > self.byte_count:
            raise CheckpointError(
                f"{self.path}: declares {declared} bytes in {len(records)} records, more than it "
                f"holds or in a form that torch.save does not write. {_WRONG_FILE}"
            )

    def _unpickle(self) -> object:
        size = self._file.getinfo(f"{self._prefix}data.pkl").file_size
        if size > MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"{self.path}: its data.pkl has {size} bytes, at most {MAX_PICKLE_BYTES} are read. "
                f"{_WRONG_FILE}"
            )
        byte_order = f"{self._prefix}byteorder"
        if byte_order in self._file.namelist() and self._record(byte_order) != b"little":
            raise CheckpointError(
                f"{self.path}: written on a big-endian machine; save it again on another"
            )
        try:
            return unpickle(self._record(f"{self._prefix}data.pkl"))
        except ForbiddenNameError as error:
            raise _foreign(self.path, str(error)) from None
        except DamagedPickleError as error:
            raise CheckpointError(
                f"{self.path}: its data.pkl is no network that detq knows ({error}), nothing in "
                f"it was run. {_WRONG_FILE}"
            ) from None

    def _storage(self, storage: Storage) -> npt.NDArray[np.generic]:
        if storage not in self._numbers:
            raw = self._record(f"{self._prefix}data/{storage.record}")
            expected = storage.count * np.dtype(storage.dtype).itemsize
            if len(raw) != expected:
                raise CheckpointError(
                    f"{self.path}: record {storage.record} has {len(raw)} bytes, expected "
                    f"{expected}; {_CUT_SHORT}"
                )
            self._numbers[storage] = np.frombuffer(raw, storage.dtype)
        return self._numbers[storage]

    def _record(self, name: str) -> bytes:
        try:
            return self._file.read(name)
        except _BROKEN_ZIP as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{self.path}: {shown(name)}: {reason}; {_CUT_SHORT}") from None


def _foreign(path: Path, name: str) -> CheckpointError:
    """The error for a file that refers to a class that is none of a network detq reads."""
    if explanation := explain_name(name):
        return CheckpointError(f"{path}: {explanation}; nothing in it was run")
    return CheckpointError(
        f"{path}: refers to {name}; not a YOLOv6 checkpoint, nor a detector of Ultralytics', "
        f"nothing in it was run. {_WRONG_FILE}"
    )


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a checkpoint file for reading; it is closed at the end of the block.

    Raises CheckpointError if the file is missing, damaged, unsafe, or no ``torch.save`` archive.
    """
    _check_kind(path)
    try:
        if _directory_bytes(path) > MAX_DIRECTORY_BYTES:
            raise CheckpointError(f"{path}: lists more records than a checkpoint has")
        file = zipfile.ZipFile(path)
    except _BROKEN_ZIP:
        raise CheckpointError(f"{path}: {_CUT_SHORT}") from None
    with file:
        yield Archive(path, file)


def _directory_bytes(path: Path) -> int:
    """How long a zip's list of records says that it is, before all of it is read into memory."""
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(max(size - _ZIP_TAIL, 0))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 16:
        return 0  # zipfile says what is wrong
    (length,) = struct.unpack_from("<I", tail, end + 12)
    return int(size if length == 0xFFFFFFFF else length)


def _check_kind(path: Path) -> None:
    try:
        with open_regular(path) as file:
            head = file.read(64)
            size = file.seek(0, 2)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); check the path"
        ) from None
    start = head[: len(_ZIP_MAGIC)]
    if instead := in_place_of(head):
        raise CheckpointError(f"{path}: not a torch checkpoint but {instead}")
    if not start:
        raise CheckpointError(f"{path}: the file is empty; download or copy it again")
    if start[:1] == b"\x80":
        raise CheckpointError(
            f"{path}: a bare pickle, as torch wrote before 1.6; nothing in it was run. Save it "
            f"again with a current torch"
        )
    if start != _ZIP_MAGIC and tarfile.is_tarfile(path):
        raise CheckpointError(
            f"{path}: a tar archive, as torch wrote before 0.2; open it with a torch of its time "
            "and save it again, or export the network to ONNX there"
        )
    if start != _ZIP_MAGIC:
        raise CheckpointError(f"{path}: not a torch checkpoint. {_WRONG_FILE}")
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path}: {size} bytes, at most {MAX_FILE_BYTES} are read")


def _view_problem(tensor: StoredTensor) -> str | None:
    """Why a tensor is no view of its storage, or None. An expanded view (stride 0) is refused."""
    shape, strides, count = tensor.shape, tensor.strides, tensor.storage.count
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        return f"has shape {shape[:MAX_DIMENSIONS]} but {len(strides)} strides"
    if tensor.offset < 0 or min((*shape, *strides), default=0) < 0:
        return "has a negative size, stride or offset"
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and (last >= count or math.prod(shape) > count):
        return f"of shape {shape} reaches beyond its storage of {count} numbers"
    if tensor.offset > count:
        return f"begins beyond its storage of {count} numbers"
    if max(strides, default=0) > max(count, 1):
        return f"has strides {shown(strides)} in a storage of {count} numbers"
    return None
