"""Observing activations in the placed graph, and writing the ranges chosen from them back into
it.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.config import RangesConfig
from detq.graph.execute import compile_exact
from detq.graph.surgery import (
    CONVOLUTIONS,
    bypass,
    constant_value,
    nodes_of_type,
    part_of,
    producer,
    producers,
    replace_constant_input,
    upstream,
    with_outputs,
)
from detq.quant.histogram import ActivationStatistics, HistogramObserver
from detq.quant.ranges import Range, choose_range
from detq.records import Part

Image = npt.NDArray[np.float32]

SHARING_OPERATIONS = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "MaxPool",
        "Reshape",
        "ShuffleChannels",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "StridedSlice",
        "Transpose",
        "Unsqueeze",
        "VariadicSplit",
    }
)
"""Operations that hand on their input's values: quantizers that meet behind them share one grid."""


@dataclass(frozen=True)
class ActivationQuantizer:
    """One activation FakeQuantize of a placed graph: where it is and what grid it may have.

    ``channel_axis`` is None for one range per tensor; ``group`` is equal for quantizers that must
    share a range.
    """

    name: str
    part: Part
    channel_axis: int | None
    group: str


def activation_quantizers(placed: ov.Model) -> list[ActivationQuantizer]:
    """The activation quantizers of a placed graph, in execution order."""
    nodes = activation_nodes(placed)
    groups = _sharing_groups(placed, nodes)
    return [
        ActivationQuantizer(
            name=node.get_friendly_name(),
            part=_part(node),
            channel_axis=_channel_axis(node),
            group=groups[node.get_friendly_name()],
        )
        for node in nodes
    ]


def float_twin(placed: ov.Model) -> ov.Model:
    """The placed graph with every FakeQuantize bypassed: the float network, same nodes and
    names.
    """
    twin = placed.clone()
    for node in nodes_of_type(twin, "FakeQuantize"):
        bypass(node)
    return twin


def observe(
    placed: ov.Model,
    quantizers: list[ActivationQuantizer],
    images: Iterable[Image],
    *,
    bins: int,
    threads: int = 2,
) -> dict[str, list[ActivationStatistics]]:
    """Statistics of what each quantizer would see in float: one entry, or one per channel.

    Streams over ``images`` (float32 [1, 3, H, W]); memory does not grow with their number.
    Quantizers of one group share the statistics of all their tensors. Raises CalibrationError if
    there was no image.
    """
    twin = placed.clone()
    by_name = {node.get_friendly_name(): node for node in twin.get_ops()}
    sources = [by_name[quantizer.name].input_value(0) for quantizer in quantizers]
    for node in nodes_of_type(twin, "FakeQuantize"):
        bypass(node)
    taps, tap_of = _unique_outputs(sources)
    compiled = compile_exact(with_outputs(twin, taps))
    groups = _tap_groups(quantizers, tap_of)
    observers = {
        leader: [HistogramObserver(bins) for _ in range(_width(taps[members[0]], axis))]
        for (leader, axis), members in groups.items()
    }
    with ThreadPoolExecutor(threads) as pool:
        for image in images:
            tensors = compiled(image)
            tasks = [
                pool.submit(_update, observers[leader], [tensors[tap] for tap in members], axis)
                for (leader, axis), members in groups.items()
            ]
            for task in tasks:
                task.result()
    statistics = {leader: [o.statistics() for o in group] for leader, group in observers.items()}
    return {quantizer.name: statistics[quantizer.group] for quantizer in quantizers}


def choose_ranges(
    quantizers: list[ActivationQuantizer],
    statistics: dict[str, list[ActivationStatistics]],
    config: RangesConfig,
    *,
    symmetric: bool,
) -> dict[str, list[Range]]:
    """A range (or one per channel) for every quantizer whose part has a rule of detq's own."""
    chosen: dict[str, list[Range]] = {}
    for quantizer in quantizers:
        method = getattr(config, quantizer.part)
        if method != "placement":
            chosen[quantizer.name] = [
                choose_range(channel, method, config, symmetric=symmetric)
                for channel in statistics[quantizer.name]
            ]
    return chosen


def write_ranges(placed: ov.Model, ranges: dict[str, list[Range]]) -> None:
    """Set the constants of the named FakeQuantize nodes; changes the model."""
    by_name = {node.get_friendly_name(): node for node in placed.get_ops()}
    for name, channels in ranges.items():
        node = by_name[name]
        shape = node.input_value(1).get_shape()
        low = np.array([channel.low for channel in channels], np.float32).reshape(shape)
        high = np.array([channel.high for channel in channels], np.float32).reshape(shape)
        for index, value in enumerate((low, high, low, high), start=1):
            replace_constant_input(node, index, value)
    placed.validate_nodes_and_infer_types()


def activation_nodes(model: ov.Model) -> list[ov.Node]:
    """The FakeQuantize nodes on activations, inputs before their users."""
    return [
        node
        for node in nodes_of_type(model, "FakeQuantize")
        if constant_value(producer(node)) is None
    ]


def _part(node: ov.Node) -> Part:
    """The part of the nearest named convolution above; the input image belongs to the backbone."""
    for above in upstream([node]):
        if above.get_type_name() in CONVOLUTIONS and (part := part_of(above.get_friendly_name())):
            return part
    return "backbone"


def _channel_axis(node: ov.Node) -> int | None:
    shape = list(node.input_value(1).get_shape())
    wide = [axis for axis, size in enumerate(shape) if size > 1]
    return wide[0] if wide else None


def _sharing_groups(model: ov.Model, nodes: list[ov.Node]) -> dict[str, str]:
    """Quantizer name -> name that is equal for all quantizers that meet in one Concat.

    Ranges per channel need not agree there: each channel keeps its own.
    """
    group = {node.get_friendly_name(): node.get_friendly_name() for node in nodes}
    per_tensor = {node.get_friendly_name() for node in nodes if _channel_axis(node) is None}
    for concat in nodes_of_type(model, "Concat"):
        joined = {group[name] for name in _quantizers_above(concat) & per_tensor}
        for name, leader in group.items():
            if leader in joined:
                group[name] = min(joined)
    return group


def _quantizers_above(node: ov.Node) -> set[str]:
    """Names of the quantizers that reach ``node`` through operations that hand values on."""
    found: set[str] = set()
    for above in producers(node):
        if above.get_type_name() == "FakeQuantize":
            found.add(above.get_friendly_name())
        elif above.get_type_name() in SHARING_OPERATIONS:
            found |= _quantizers_above(above)
    return found


def _unique_outputs(sources: list[ov.Output]) -> tuple[list[ov.Output], list[int]]:
    """Each distinct output once, and for every source the index of its output."""
    taps: list[ov.Output] = []
    index: dict[tuple[str, int], int] = {}
    positions = []
    for source in sources:
        key = (source.get_node().get_name(), source.get_index())
        if key not in index:
            index[key] = len(taps)
            taps.append(source)
        positions.append(index[key])
    return taps, positions


def _tap_groups(
    quantizers: list[ActivationQuantizer], tap_of: list[int]
) -> dict[tuple[str, int | None], list[int]]:
    """(group, channel axis) -> the distinct taps that its members read."""
    groups: dict[tuple[str, int | None], list[int]] = {}
    for quantizer, tap in zip(quantizers, tap_of, strict=True):
        members = groups.setdefault((quantizer.group, quantizer.channel_axis), [])
        if tap not in members:
            members.append(tap)
    return groups


def _width(tap: ov.Output, channel_axis: int | None) -> int:
    return 1 if channel_axis is None else int(tap.get_shape()[channel_axis])


def _update(
    observers: list[HistogramObserver], tensors: list[Image], channel_axis: int | None
) -> None:
    if channel_axis is None:
        observers[0].update(*tensors)
        return
    for channel, observer in enumerate(observers):
        observer.update(*(np.take(tensor, [channel], axis=channel_axis) for tensor in tensors))
