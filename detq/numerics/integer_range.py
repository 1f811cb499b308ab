"""The part of a tensor's values that an integer grid covers."""

from __future__ import annotations

from dataclasses import dataclass

from detq.errors import CalibrationError


@dataclass(frozen=True)
class Range:
    """Ends of an integer grid in real units, with zero exactly on the grid."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (self.low <= 0 < self.high):
            raise CalibrationError(f"expected low <= 0 < high, got {self.low}, {self.high}")

    @property
    def needs_zero_point(self) -> bool:
        """True unless zero is the lowest of 256 unsigned or the middle of 256 signed integers."""
        return self.low < 0 and round(-self.low / (self.high - self.low) * 255) != 128

    @property
    def signed(self) -> Range:
        """The narrowest grid of signed integers that clips no more than this one."""
        high = max(self.high, -self.low * 127 / 128)
        return Range(-high * 128 / 127, high)
