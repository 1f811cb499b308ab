"""Observing activations: what every quantizer of a placed graph would see in the float network.

A tensor's extremes are exact; its histogram comes from a grid of pixels in all channels, so that
little leaves the network: a YOLOv6-S at 640 pixels makes 48 million activations of an image.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.errors import CalibrationError
from detq.graph.digest import digest
from detq.graph.execute import compile_exact, outputs_of
from detq.graph.surgery import bypass, nodes_of_type, with_outputs
from detq.numerics.histogram import ActivationStatistics, HistogramObserver, pack, unpack
from detq.quant.calibration import ActivationQuantizer
from detq.quant.observation_store import ObservationStore

Image = npt.NDArray[np.float32]

SAMPLE = 2**16
"""At most so many values of a tensor, of one image, are counted in its histogram."""
CHANNEL_SAMPLE = 2**12
"""But at least so many of each channel that has a histogram of its own."""


@dataclass(frozen=True)
class _Group:
    """Tensors that share statistics, by their places among the operations of the float network.

    ``channel_axis`` is None for one histogram of all values.
    """

    channel_axis: int | None
    members: tuple[tuple[int, int], ...]
    """(place of the operation, output)"""

    @property
    def key(self) -> str:
        return f"{self.channel_axis}:{self.members}"


def observe(
    placed: ov.Model,
    quantizers: list[ActivationQuantizer],
    images: Iterable[Image],
    *,
    bins: int,
    store: ObservationStore | None = None,
) -> dict[str, list[ActivationStatistics]]:
    """Statistics of what each quantizer would see in float: one entry, or one per channel.

    Streams over ``images`` (float32 [1, 3, H, W]); memory does not grow with their number.
    Quantizers of one group share the statistics of all their tensors. ``store`` keeps what was seen
    of this network on these images; what it has already, no image is read for. Raises
    CalibrationError if there was no image, or an activation is infinite or undefined.
    """
    twin = placed.clone()
    by_name = {node.get_friendly_name(): node for node in twin.get_ops()}
    sources = {q.name: by_name[q.name].input_value(0) for q in quantizers}
    for node in nodes_of_type(twin, "FakeQuantize"):
        bypass(node)
    operations = twin.get_ordered_ops()
    groups = _groups(quantizers, sources, operations)
    about = f"{digest(twin)} {bins} bins {SAMPLE} {CHANNEL_SAMPLE} values"
    known = _kept(store, about)
    missing = {group.key: group for group in groups.values() if group.key not in known}
    if missing:
        known |= _observe(twin, operations, missing, images, bins)
        if store is not None:
            store.write(about, _flat(known))
    return {q.name: known[groups[q.group, q.channel_axis].key] for q in quantizers}


def _kept(store: ObservationStore | None, about: str) -> dict[str, list[ActivationStatistics]]:
    """By the key of each group what an earlier run saw."""
    arrays = {} if store is None else store.read(about) or {}
    groups: dict[str, dict[str, npt.NDArray[np.float64]]] = defaultdict(dict)
    for name, array in arrays.items():
        key, _, field = name.rpartition(" ")
        groups[key][field] = array
    return {key: unpack(fields) for key, fields in groups.items()}


def _flat(
    statistics: dict[str, list[ActivationStatistics]],
) -> dict[str, npt.NDArray[np.float64]]:
    """One array for each field of each group."""
    return {
        f"{key} {field}": array
        for key, group in statistics.items()
        for field, array in pack(group).items()
    }


def _groups(
    quantizers: list[ActivationQuantizer],
    sources: dict[str, ov.Output],
    operations: list[ov.Node],
) -> dict[tuple[str, int | None], _Group]:
    """(group, channel axis) -> the distinct tensors that its members read."""
    place = {node.get_name(): index for index, node in enumerate(operations)}
    members: dict[tuple[str, int | None], list[tuple[int, int]]] = {}
    for quantizer in quantizers:
        source = sources[quantizer.name]
        tensor = (place[source.get_node().get_name()], source.get_index())
        found = members.setdefault((quantizer.group, quantizer.channel_axis), [])
        if tensor not in found:
            found.append(tensor)
    return {key: _Group(key[1], tuple(found)) for key, found in members.items()}


def _observe(
    twin: ov.Model,
    operations: list[ov.Node],
    groups: dict[str, _Group],
    images: Iterable[Image],
    bins: int,
) -> dict[str, list[ActivationStatistics]]:
    """Run the images and count; uses the model up."""
    taps: list[ov.Output] = []
    observers: dict[str, list[HistogramObserver]] = {}
    for key, group in groups.items():
        tensors = [operations[place].output(index) for place, index in group.members]
        axis = group.channel_axis
        width = 1 if axis is None else int(tensors[0].get_shape()[axis])
        observers[key] = [HistogramObserver(bins) for _ in range(width)]
        for tensor in tensors:
            taps += _taps(tensor, axis)
    compiled = compile_exact(with_outputs(twin, taps))
    seen = False
    with ThreadPoolExecutor(2) as pool:
        for values in outputs_of(compiled, images):
            seen, tasks, start = True, [], 0
            for key, group in groups.items():
                end = start + 3 * len(group.members)
                tasks.append(
                    pool.submit(_update, observers[key], values[start:end], group.channel_axis)
                )
                start = end
            for task in tasks:
                task.result()
    if not seen:
        raise CalibrationError("calibration saw no data; give it at least one readable image")
    return {key: [each.statistics() for each in group] for key, group in observers.items()}


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


def _update(
    observers: list[HistogramObserver], values: list[Image], channel_axis: int | None
) -> None:
    """``values``: for each tensor what :func:`_taps` lets out."""
    for channel, observer in enumerate(observers):
        own = values
        if channel_axis is not None:
            own = [np.moveaxis(part, channel_axis, 0)[channel] for part in values]
        extremes = [float(part.item()) for part in (*own[1::3], *own[2::3])]
        observer.update(*own[::3], extremes=extremes)
