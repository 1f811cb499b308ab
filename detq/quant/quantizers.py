"""The activation quantizers of a placed model: where they are, and which must share a grid."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import openvino as ov

from detq.config import RangesConfig
from detq.graph.layers import Grid, write_grid
from detq.graph.surgery import (
    CONVOLUTIONS,
    WEIGHTED,
    constant_value,
    consumers,
    nodes_of_type,
    producer,
    producers,
    upstream,
)
from detq.numerics.histogram import ActivationStatistics
from detq.numerics.integer_range import Range
from detq.numerics.ranges import choose_range
from detq.quant.network import ActivationQuantizer, Ranges, SplitConvolution
from detq.records import Part, part_of

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
HANDING_ON = SHARING_OPERATIONS | {"Interpolate", "FakeQuantize"}
"""Operations behind which a quantized tensor still counts as quantized."""


def activation_quantizers(
    placed: ov.Model, splits: Collection[SplitConvolution] = ()
) -> tuple[ActivationQuantizer, ...]:
    """The activation quantizers of a placed model, in execution order."""
    nodes = activation_nodes(placed)
    groups = _sharing_groups(placed, nodes)
    fine = {(split.fine, split.total) for split in splits}
    return tuple(
        ActivationQuantizer(
            name=node.get_friendly_name(),
            part=_part(node),
            channel_axis=_channel_axis(node),
            group=groups[node.get_friendly_name()],
            is_fine_branch=_is_between(node, fine),
        )
        for node in nodes
    )


def activation_nodes(model: ov.Model) -> list[ov.Node]:
    """The FakeQuantize nodes on activations, inputs before their users."""
    return [
        node
        for node in nodes_of_type(model, "FakeQuantize")
        if constant_value(producer(node)) is None
    ]


def write_ranges(placed: ov.Model, ranges: Ranges) -> None:
    """Let the named quantizers round to these ranges; changes the model."""
    for node in activation_nodes(placed):
        channels = ranges.get(node.get_friendly_name())
        if channels:
            shape = node.input_value(1).get_shape()
            low = np.array([channel.low for channel in channels], np.float32).reshape(shape)
            high = np.array([channel.high for channel in channels], np.float32).reshape(shape)
            write_grid(node, Grid(low, high, node.get_attributes()["levels"]))
    placed.validate_nodes_and_infer_types()


def ranges_by(
    rule: str,
    quantizer: ActivationQuantizer,
    seen: Sequence[ActivationStatistics],
    config: RangesConfig,
    symmetric: bool,
) -> tuple[Range, ...]:
    """What a rule makes of a tensor: one range, or one per channel."""
    symmetric = symmetric or quantizer.is_fine_branch
    return tuple(choose_range(channel, rule, config, symmetric=symmetric) for channel in seen)


def readers(quantizer: ov.Node) -> list[ov.Node]:
    """Weighted operations that read a quantizer's tensor, also through ones that hand it on."""
    found = []
    for node in consumers(quantizer):
        if node.get_type_name() in WEIGHTED:
            found.append(node)
        elif node.get_type_name() in HANDING_ON:
            found += readers(node)
    return found


def _is_between(quantizer: ov.Node, fine: Collection[tuple[str, str]]) -> bool:
    """True between a fine convolution and the sum."""
    above = producer(quantizer).get_friendly_name()
    return any((above, user.get_friendly_name()) in fine for user in consumers(quantizer))


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
