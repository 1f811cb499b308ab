"""What calibration saw, kept on disk: a second recipe on the same network and images reads it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov

Arrays = dict[str, npt.NDArray[np.float64]]

MOST_FILES = 32
"""Some megabytes each; the ones that were not used for longest go first."""


@dataclass(frozen=True)
class ObservationStore:
    """A folder of observations of one set of images.

    ``images`` tells these images, and how they become network inputs, from all others. A file that
    cannot be read counts as missing, and one that cannot be written is not kept: nothing depends
    on the store but time.
    """

    folder: Path
    images: str

    def read(self, about: str) -> Arrays | None:
        """The arrays kept under ``about``, None if there are none."""
        path = self._path(about)
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: np.asarray(file[name], np.float64) for name in file.files}
            os.utime(path)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        return arrays

    def write(self, about: str, arrays: Mapping[str, npt.NDArray[np.float64]]) -> None:
        """Keep the arrays in place of what was kept under ``about``."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                try:
                    np.savez_compressed(file, allow_pickle=False, **arrays)
                    Path(file.name).replace(self._path(about))
                except BaseException:
                    Path(file.name).unlink()
                    raise
            self._tidy()

    def _path(self, about: str) -> Path:
        key = f"{about}\n{self.images}\nOpenVINO {ov.get_version()}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.npz"

    def _tidy(self) -> None:
        files = sorted(self.folder.glob("*.npz"), key=lambda path: path.stat().st_mtime)
        for path in files[:-MOST_FILES]:
            path.unlink(missing_ok=True)
