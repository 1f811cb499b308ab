"""The statistic that equalization looks at: what each channel of a tensor reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.quant.network import Image
from detq.quant.observation import Arrays, FloatNetwork

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChannelRange:
    """What was seen in each channel, (C,) each.

    ``reach`` is the distance of its extremes, 0 among them, in all images; ``low`` and ``high`` are
    the means over images of each image's, about where a range by least squared error ends;
    ``power`` is the mean square.
    """

    reach: Vector
    low: Vector
    high: Vector
    power: Vector


@dataclass(frozen=True)
class ChannelRanges:
    """Of one operation's output, [1, C, H, W]; a :class:`~detq.quant.observation.Want`."""

    tensor: str
    purpose: str = "observing channels"
    images: int | None = None
    size_bytes: int = 0
    of_float: ClassVar[bool] = True

    def observer(self, network: FloatNetwork) -> _Extremes:
        """What looks."""
        return _Extremes(network.node(self.tensor).output(0))

    def key(self, network: FloatNetwork) -> str:
        """By the place of the operation, whatever it is called."""
        return f"reach and mean channels of {network.place(self.tensor)}"

    def pack(self, result: ChannelRange) -> Arrays:
        """As arrays."""
        return vars(result)

    def unpack(self, arrays: Arrays) -> ChannelRange:
        """The way back."""
        return ChannelRange(**arrays)


class _Extremes:
    def __init__(self, tensor: ov.Output) -> None:
        axes = ops.constant([0, 2, 3])
        square = ops.multiply(tensor, tensor)
        self.outputs = [
            ops.reduce_min(tensor, axes).output(0),
            ops.reduce_max(tensor, axes).output(0),
            ops.reduce_mean(square, axes).output(0),
        ]
        self._least, self._largest = np.zeros(1), np.zeros(1)
        self._low, self._high, self._power = np.zeros(1), np.zeros(1), np.zeros(1)
        self._count = 0

    def update(self, values: Sequence[Image]) -> None:
        low, high, power = (value.astype(np.float64) for value in values)
        self._least = np.minimum(self._least, low)
        self._largest = np.maximum(self._largest, high)
        self._low = self._low + np.minimum(low, 0)
        self._high = self._high + np.maximum(high, 0)
        self._power = self._power + power
        self._count += 1

    def result(self) -> ChannelRange:
        sums = self._low, self._high, self._power
        low, high, power = (total / self._count for total in sums)
        return ChannelRange(self._largest - self._least, low, high, power)
