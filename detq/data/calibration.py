"""Calibration images: decoded and letterboxed afresh for every pass, damaged files left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from detq.data.images import ImageBGR, read_image_bgr, read_images
from detq.errors import CalibrationError, DamagedImageError
from detq.progress import Steps


class Preprocessing(Protocol):
    """How an image becomes a network input: a letterbox, or a centre crop."""

    def apply(self, image: ImageBGR, /) -> tuple[npt.NDArray[np.float32], object]:
        """uint8 [h, w, 3] BGR -> float32 [1, 3, H, W] RGB in 0..1, and how it was placed."""


@dataclass(frozen=True)
class CalibrationImages:
    """Readable image files and how they become network inputs; ``skipped`` could not be decoded."""

    paths: tuple[Path, ...]
    preprocess: Preprocessing
    skipped: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.paths:
            raise CalibrationError(
                f"no calibration image could be read ({len(self.skipped)} are damaged); "
                "check the data set"
            )

    def inputs(self, count: int | None = None) -> Iterator[npt.NDArray[np.float32]]:
        """Network inputs float32 [1, 3, H, W] of the first ``count`` images, decoded ahead."""
        for image in read_images(self.paths[:count]):
            yield self.preprocess.apply(image)[0]

    def __len__(self) -> int:
        return len(self.paths)


def readable_images(
    paths: Sequence[Path],
    preprocess: Preprocessing,
    *,
    progress: Steps | None = None,
) -> CalibrationImages:
    """Decode every file once, and keep those that decode.

    Raises CalibrationError if none does, DataError for what is no image file at all.
    """
    good: list[Path] = []
    bad: list[Path] = []
    with ThreadPoolExecutor() as pool:
        for path, decodes in zip(paths, pool.map(_decodes, paths), strict=True):
            (good if decodes else bad).append(path)
            if progress is not None:
                progress(len(good) + len(bad), len(paths))
    return CalibrationImages(tuple(good), preprocess, tuple(bad))


def _decodes(path: Path) -> bool:
    try:
        read_image_bgr(path)
    except DamagedImageError:
        return False
    return True
