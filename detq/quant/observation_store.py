"""What calibration saw, kept on disk: a second recipe on the same network and images reads it.

A file is the SHA-256 of its name and content, then an ``.npz``. The check sums inside a zip do not
cover everything in it, and none says that a file lies under its own name.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.files import atomic_write, clear_place, read_bytes

Arrays = dict[str, npt.NDArray[np.float64]]

MOST_FILES = 32
"""Some megabytes each; the ones that were not used for longest go first."""
MOST_BYTES = 256 << 20
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class ObservationStore:
    """A folder of observations of one set of images.

    ``images`` tells these images, and how they become network inputs, from all others. A file that
    cannot be read or is damaged counts as missing, and one that cannot be written is not kept:
    nothing depends on the store but time.
    """

    folder: Path
    images: str

    def read(self, about: str) -> Arrays | None:
        """The arrays kept under ``about``, None if there are none."""
        path = self._path(about)
        try:
            content = read_bytes(path, most_bytes=MOST_BYTES)
        except OSError:
            return None
        head, kept = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if head != _digest(path, kept):
            return None
        with np.load(io.BytesIO(kept), allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name], np.float64) for name in file.files}
        with contextlib.suppress(OSError):
            os.utime(path)
        return arrays

    def write(self, about: str, arrays: Mapping[str, npt.NDArray[np.float64]]) -> None:
        """Keep the arrays in place of whatever is there."""
        path, buffer = self._path(about), io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        with contextlib.suppress(OSError):
            clear_place(path)
            atomic_write(path, _digest(path, buffer.getvalue()) + buffer.getvalue())
            self._tidy()

    def _path(self, about: str) -> Path:
        key = f"{about}\n{self.images}\nOpenVINO {ov.get_version()}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.npz"

    def _tidy(self) -> None:
        files = sorted(self.folder.glob("*.npz"), key=lambda path: path.stat().st_mtime)
        for path in files[:-MOST_FILES]:
            path.unlink(missing_ok=True)


def _digest(path: Path, content: bytes) -> bytes:
    """Of what is kept and of what it is about, which is the file's name."""
    return hashlib.sha256(path.name.encode() + content).digest()
