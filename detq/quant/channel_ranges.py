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
    """What was seen in each channel, (C,) each: its extremes, 0 among them, and the mean square.

    Extremes are the mean over images of each image's. Those of all images together are those of one
    odd image, which a range by least squared error clips: they made YOLOv5n agree with float by 2
    points less than if its channels were left alone.
    """

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
        return f"mean channels of {network.place(self.tensor)}"

    def pack(self, result: ChannelRange) -> Arrays:
        """As arrays."""
        return {"low": result.low, "high": result.high, "power": result.power}

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
        self._low, self._high, self._power = np.zeros(1), np.zeros(1), np.zeros(1)
        self._count = 0

    def update(self, values: Sequence[Image]) -> None:
        low, high, power = (value.astype(np.float64) for value in values)
        self._low = self._low + np.minimum(low, 0)
        self._high = self._high + np.maximum(high, 0)
        self._power = self._power + power
        self._count += 1

    def result(self) -> ChannelRange:
        count = self._count
        return ChannelRange(self._low / count, self._high / count, self._power / count)
