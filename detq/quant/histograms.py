"""The statistic that range rules look at: a histogram of each tensor that is to be quantized.

A tensor's extremes are exact; its histogram comes from a grid of pixels in all channels, so that
little leaves the network: a YOLOv6-S at 640 pixels makes 48 million activations of an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from detq.graph.surgery import nodes_by_name
from detq.numerics.histogram import ActivationStatistics, HistogramObserver, pack, unpack
from detq.quant.network import ActivationQuantizer, Image
from detq.quant.observation import Arrays, FloatNetwork, Statistics

SAMPLE = 2**16
"""At most so many values of a tensor, of one image, are counted in its histogram."""
CHANNEL_SAMPLE = 2**12
"""But at least so many of each channel that has a histogram of its own."""


@dataclass(frozen=True)
class Histogram:
    """Statistics of tensors that share a grid; a :class:`~detq.quant.observation.Want`.

    ``tensors`` are (operation, output); ``channel_axis`` is None for one histogram of all values.
    The result is one entry, or one per channel.
    """

    tensors: tuple[tuple[str, int], ...]
    channel_axis: int | None
    bins: int
    purpose: str = "observing"
    images: int | None = None
    of_float: ClassVar[bool] = True

    @property
    def size_bytes(self) -> int:
        """Little: what leaves the network is counted at once."""
        return 0

    def observer(self, network: FloatNetwork) -> _Counter:
        """What counts."""
        tensors = [network.node(name).output(index) for name, index in self.tensors]
        return _Counter(tensors, self.channel_axis, self.bins)

    def key(self, network: FloatNetwork) -> str:
        """By the places of its tensors, whatever they are called."""
        places = [(network.place(name), index) for name, index in self.tensors]
        return f"{self.channel_axis}:{places}:{self.bins}/{SAMPLE}/{CHANNEL_SAMPLE}"

    def pack(self, result: Sequence[ActivationStatistics]) -> Arrays:
        """As arrays."""
        return pack(result)

    def unpack(self, arrays: Arrays) -> list[ActivationStatistics]:
        """The way back."""
        return unpack(arrays)


def histograms(
    model: ov.Model, quantizers: Sequence[ActivationQuantizer], *, bins: int
) -> dict[str, Histogram]:
    """What to observe for each quantizer; those of one group share what is seen in all of it."""
    read: dict[tuple[str, int | None], list[tuple[str, int]]] = {}
    nodes = nodes_by_name(model)
    for quantizer in quantizers:
        source = nodes[quantizer.name].input_value(0)
        tensor = (source.get_node().get_friendly_name(), source.get_index())
        found = read.setdefault((quantizer.group, quantizer.channel_axis), [])
        if tensor not in found:
            found.append(tensor)
    return {
        q.name: Histogram(tuple(read[q.group, q.channel_axis]), q.channel_axis, bins)
        for q in quantizers
    }


def take_histograms(
    statistics: Statistics, wants: Mapping[str, Histogram]
) -> dict[str, list[ActivationStatistics]]:
    """What was wanted, by the names of the quantizers."""
    found = {want: statistics.take(want) for want in distinct(wants)}
    return {name: found[want] for name, want in wants.items()}


def distinct(wants: Mapping[str, Histogram]) -> list[Histogram]:
    """Each once, though quantizers of a group share one."""
    return [*dict.fromkeys(wants.values())]


class _Counter:
    """Counts the values of some tensors in one histogram, or in one per channel."""

    def __init__(self, tensors: Sequence[ov.Output], axis: int | None, bins: int) -> None:
        self._axis = axis
        width = 1 if axis is None else int(tensors[0].get_shape()[axis])
        self._observers = [HistogramObserver(bins) for _ in range(width)]
        self.outputs = [tap for tensor in tensors for tap in _taps(tensor, axis)]

    def update(self, values: Sequence[Image]) -> None:
        """``values``: for each tensor what :func:`_taps` lets out."""
        rows = [
            np.moveaxis(part, self._axis or 0, 0).reshape(len(self._observers), -1)
            for part in values
        ]
        samples = rows[::3]
        lows = np.min([part.min(axis=1) for part in (*samples, *rows[1::3])], axis=0).tolist()
        highs = np.max([part.max(axis=1) for part in (*samples, *rows[2::3])], axis=0).tolist()
        for channel, observer in enumerate(self._observers):
            extremes = lows[channel], highs[channel]
            observer.update(*(part[channel] for part in samples), extremes=extremes)

    def result(self) -> list[ActivationStatistics]:
        """What was counted; raises CalibrationError for infinite or undefined activations."""
        return [observer.statistics() for observer in self._observers]


def _taps(tensor: ov.Output, channel_axis: int | None) -> list[ov.Output]:
    """What leaves the network of one tensor: values to count, the least value, the largest."""
    shape = list(tensor.get_shape())
    sample = _sample(tensor, shape, channel_axis)
    axes = ops.constant([axis for axis in range(len(shape)) if axis != channel_axis])
    high = ops.reduce_max(tensor, axes, True).output(0)
    if tensor.get_node().get_type_name() == "Relu":  # not worth a pass: zero, or nearly so
        return [sample, high, high]
    return [sample, ops.reduce_min(tensor, axes, True).output(0), high]


def _sample(tensor: ov.Output, shape: list[int], channel_axis: int | None) -> ov.Output:
    """Every n-th pixel down and across, n odd, so that no pattern of an upsampling is missed."""
    limit = SAMPLE if channel_axis is None else max(SAMPLE, CHANNEL_SAMPLE * shape[channel_axis])
    if len(shape) != 4 or channel_axis in (2, 3):
        return tensor
    step = 1
    while shape[1] * math.ceil(shape[2] / step) * math.ceil(shape[3] / step) > limit:
        step += 2
    if step == 1:
        return tensor
    starts, ends = ops.constant([0, 0]), ops.constant(shape[2:])
    steps, axes = ops.constant([step, step]), ops.constant([2, 3])
    return ops.slice(tensor, starts, ends, steps, axes).output(0)
