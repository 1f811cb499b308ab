"""Streaming histogram of one activation: constant memory, any number of images, pure numpy +
OpenCV.

The histogram covers ``[-reach, reach]`` with equal bins and zero on a bin edge. When a value
beyond the reach arrives, the reach doubles and neighbouring bins merge, so nothing seen before is
lost or moved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detq.errors import CalibrationError
from detq.opencv import cv2

Counts = npt.NDArray[np.float64]

_VALUES = ("bin_width", "low", "high", "mean_low", "mean_high", "zeros", "images")

EXACT_COUNT = 2**24
"""calcHist counts in float32, which holds every integer up to here."""


@dataclass(frozen=True)
class ActivationStatistics:
    """What calibration knows about one tensor, or one channel of it.

    ``positive`` and ``negative`` count values by magnitude, without the exact zeros, in bins of
    ``bin_width``; both have the same length, which covers the largest magnitude seen. They may
    count a sample of the values; ``low`` and ``high`` are the extremes of all.
    ``mean_low`` and ``mean_high`` are the means over images of each image's minimum and maximum.
    """

    positive: Counts
    negative: Counts
    bin_width: float
    low: float
    high: float
    mean_low: float
    mean_high: float
    zeros: int
    images: int

    @property
    def magnitude(self) -> Counts:
        """Counts of |x|, exact zeros left out."""
        return self.positive + self.negative

    @property
    def peak(self) -> float:
        """Largest |x| seen."""
        return max(self.high, -self.low)


def pack(statistics: Sequence[ActivationStatistics]) -> dict[str, Counts]:
    """Statistics as arrays, to be kept in a file; :func:`unpack` is the way back."""
    return {
        "positive": np.concatenate([each.positive for each in statistics]),
        "negative": np.concatenate([each.negative for each in statistics]),
        "values": np.array(
            [
                [len(each.positive), *(getattr(each, name) for name in _VALUES)]
                for each in statistics
            ]
        ),
    }


def unpack(arrays: Mapping[str, Counts]) -> list[ActivationStatistics]:
    """What :func:`pack` was given. Raises KeyError or ValueError for anything else."""
    counts = arrays["values"][:, 0].astype(int)
    ends = np.cumsum(counts)[:-1]
    rows = zip(
        np.split(arrays["positive"], ends),
        np.split(arrays["negative"], ends),
        arrays["values"][:, 1:].tolist(),
        strict=True,
    )
    return [
        ActivationStatistics(
            positive=positive, negative=negative, **dict(zip(_VALUES, values, strict=True))
        )
        for positive, negative, values in rows
    ]


@dataclass
class HistogramObserver:
    """Collects :class:`ActivationStatistics` image by image.

    ``bins`` is the least number of bins that will cover the largest magnitude: twice as many are
    kept on each side, because the last doubling can leave half of the reach empty.
    """

    bins: int = 2048
    _counts: Counts | None = None
    _reach: float = 0.0
    _lows: list[float] = field(default_factory=list)
    _highs: list[float] = field(default_factory=list)
    _zeros: int = 0
    _limits: list[float] = field(default_factory=list)

    def update(
        self,
        *tensors: npt.NDArray[np.float32],
        extremes: tuple[float, float] | None = None,
    ) -> None:
        """Add one image's values: float32 tensors of any shape, several where they share a grid.

        ``extremes`` are the least and the largest if ``tensors`` hold a sample of the values only.
        Raises CalibrationError for an infinite or undefined value.
        """
        if extremes is None:
            lows, highs = zip(*((values.min(), values.max()) for values in tensors), strict=True)
            extremes = float(np.min(lows)), float(np.max(highs))
        low, high = extremes
        peak = max(high, -low)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CalibrationError(
                "an activation is infinite or undefined (NaN); check that the float model works on "
                "the calibration images"
            )
        self._lows.append(low)
        self._highs.append(high)
        if peak > 0:
            self._widen(peak)
        for values in tensors:
            self._add(values)

    def statistics(self) -> ActivationStatistics:
        """The result so far. Raises CalibrationError if no image was seen."""
        if not self._lows:
            raise CalibrationError("calibration saw no data; give it at least one readable image")
        side = 2 * self.bins
        counts = np.zeros(2 * side) if self._counts is None else self._counts
        bin_width = (self._reach or 1.0) / side
        low, high = min(self._lows), max(self._highs)
        used = max(1, int(np.ceil(max(high, -low) / bin_width * (1 - 1e-12))))
        return ActivationStatistics(
            positive=counts[side : side + used].copy(),
            negative=counts[side - used : side][::-1].copy(),
            bin_width=bin_width,
            low=low,
            high=high,
            mean_low=float(np.mean(self._lows)),
            mean_high=float(np.mean(self._highs)),
            zeros=self._zeros,
            images=len(self._lows),
        )

    def _add(self, values: npt.NDArray[np.float32]) -> None:
        zeros = int(values.size - np.count_nonzero(values))
        self._zeros += zeros
        if self._counts is None:
            return
        rows = np.ascontiguousarray(values).reshape(1, -1)
        for start in range(0, rows.size, EXACT_COUNT):
            part = rows[:, start : start + EXACT_COUNT]
            self._counts += cv2.calcHist([part], [0], None, [4 * self.bins], self._limits).ravel()
        self._counts[2 * self.bins] -= zeros

    def _widen(self, peak: float) -> None:
        if self._counts is None:
            self._reach = peak
            self._counts = np.zeros(4 * self.bins)
        elif peak <= self._reach:
            return
        while peak > self._reach:
            merged = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts = np.pad(merged, self.bins)
            self._reach *= 2
        # calcHist excludes its upper limit; the reach itself must still fall into the last bin.
        # The lower limit lies one rounding step further out, so that zero, which sits on a bin
        # edge, is always counted above it.
        upper = np.nextafter(np.float32(self._reach), np.float32(np.inf))
        self._limits = [-float(np.nextafter(upper, np.float32(np.inf))), float(upper)]
