"""The activation quantizers of a placed graph, and the ranges that are chosen for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import openvino as ov

from detq.config import RangesConfig
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
)
from detq.numerics.histogram import ActivationStatistics
from detq.numerics.ranges import Range, choose_range
from detq.quant.split import rounds_fine_branch
from detq.records import Part

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
    share a range. ``is_fine_branch`` tells the one before the sum of a split convolution: the sum
    is fastest on a signed grid without a zero point.
    """

    name: str
    part: Part
    channel_axis: int | None
    group: str
    is_fine_branch: bool = False


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
            is_fine_branch=rounds_fine_branch(node),
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


def choose_ranges(
    quantizers: list[ActivationQuantizer],
    statistics: dict[str, list[ActivationStatistics]],
    config: RangesConfig,
    *,
    symmetric: bool,
) -> dict[str, list[Range]]:
    """A range (or one per channel) for every quantizer whose part has a rule of detq's own.

    Signed tensors get a symmetric one if ``symmetric``, fine branches always.
    """
    chosen: dict[str, list[Range]] = {}
    for quantizer in quantizers:
        method = getattr(config, quantizer.part)
        if method != "placement":
            both_ways = symmetric or quantizer.is_fine_branch
            chosen[quantizer.name] = [
                choose_range(channel, method, config, symmetric=both_ways)
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
