"""Zero points moved into biases, where that is exact.

A grid with a zero point costs the convolutions that read it time: 10 to 30% of it on CPUs with AMX
(docs/performance.md). A pointwise convolution without padding need not pay: with ``x = u + low``
its output is ``conv(u) + low * sum(W)``, where ``u`` lies on an unsigned grid from zero, and the
second term joins its bias. Adding ``-low`` to ``x`` joins whatever made ``x``. With padding it
would be wrong at the borders, whose zeros are no zeros of ``u``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.graph.surgery import (
    constant_value,
    consumers,
    producer,
    producers,
    replace_constant_input,
)
from detq.quant.calibration import activation_nodes, activation_quantizers

Array = npt.NDArray[np.float32]


def absorb_zero_points(placed: ov.Model) -> list[str]:
    """Give tensors that pointwise convolutions alone read unsigned grids; changes the model.

    The network computes the same. Biases are to be corrected before, weights may lie on their grids
    or not. Returns the names of the quantizers that lost their zero point.
    """
    nodes = {node.get_friendly_name(): node for node in activation_nodes(placed)}
    groups: dict[str, list[ov.Node]] = defaultdict(list)
    for quantizer in activation_quantizers(placed):
        groups[quantizer.group].append(nodes[quantizer.name])
    changed = []
    for members in groups.values():
        ends = {_ends(node) for node in members}
        low, high = ends.pop() or (0.0, 1.0)
        readers = _pointwise_readers(members)
        if ends or not _has_zero_point(low, high) or readers is None:
            continue
        for node in members:
            _shift(node, low, high)
        for reader in {reader.get_name(): reader for reader in readers}.values():
            (bias_add,) = consumers(reader)
            index, bias = _constant_operand(bias_add)
            sums = _rounded(producer(reader, 1)).sum(axis=(1, 2, 3)).reshape(1, -1, 1, 1)
            replace_constant_input(bias_add, index, bias.reshape(sums.shape) + low * sums)
        changed += [node.get_friendly_name() for node in members]
    placed.validate_nodes_and_infer_types()
    return changed


def _ends(quantizer: ov.Node) -> tuple[float, float] | None:
    """Of its grid, if all channels share it."""
    low, high = (constant_value(producer(quantizer, index)) for index in (1, 2))
    if low is None or high is None or low.size != 1 or high.size != 1:
        return None
    return float(low.item()), float(high.item())


def _has_zero_point(low: float, high: float) -> bool:
    """True unless it is zero or the middle of the signed integers."""
    return low < 0 and round(-low / (high - low) * 255) != 128


def _pointwise_readers(quantizers: Iterable[ov.Node]) -> list[ov.Node] | None:
    """Convolutions that read the tensors of a group, or their Concat; None if others do too."""
    members = {node.get_name() for node in quantizers}
    readers, pending = [], list(quantizers)
    while pending:
        for user in consumers(pending.pop()):
            if user.get_type_name() == "Concat":
                if not all(above.get_name() in members for above in producers(user)):
                    return None
                pending.append(user)
            elif _is_pointwise(user):
                readers.append(user)
            else:
                return None
    return readers


def _is_pointwise(node: ov.Node) -> bool:
    """True for a 1x1 convolution with rounded weights, no padding and a bias of its own."""
    if node.get_type_name() != "Convolution":
        return False
    attributes = node.get_attributes()
    users = consumers(node)
    channels = node.get_output_shape(0)[1]
    return (
        list(node.get_input_shape(1))[2:] == [1, 1]
        and not any((*attributes["pads_begin"], *attributes["pads_end"]))
        and producer(node, 1).get_type_name() == "FakeQuantize"
        and len(users) == 1
        and users[0].get_type_name() == "Add"
        and any(
            value is not None and value.size == channels
            for value in map(constant_value, producers(users[0]))
        )
    )


def _constant_operand(addition: ov.Node) -> tuple[int, Array]:
    """Which input of an Add is constant, and its value."""
    for index, above in enumerate(producers(addition)):
        value = constant_value(above)
        if value is not None:
            return index, value
    raise ValueError(f"{addition.get_friendly_name()}: neither input is constant")


def _rounded(quantizer: ov.Node) -> Array:
    """The value that a FakeQuantize makes of its constant weights."""
    weight, low, high = (constant_value(producer(quantizer, index)) for index in range(3))
    if weight is None or low is None or high is None:
        raise ValueError(f"{quantizer.get_friendly_name()}: its weights are not constant")
    step = (high - low) / (quantizer.get_attributes()["levels"] - 1)
    places = np.rint((np.clip(weight, low, high) - low) / step)
    return np.asarray(places * step + low, np.float32)


def _shift(quantizer: ov.Node, low: float, high: float) -> None:
    """Round ``x - low`` from zero up instead of ``x`` from ``low`` up; changes the model."""
    shifted = ops.add(quantizer.input_value(0), np.full((1, 1, 1, 1), -low, np.float32))
    shifted.set_friendly_name(f"{quantizer.get_friendly_name()}/shift")
    quantizer.input(0).replace_source_output(shifted.output(0))
    for index, value in enumerate((0.0, high - low, 0.0, high - low), start=1):
        shape = quantizer.input_value(index).get_shape()
        replace_constant_input(quantizer, index, np.full(shape, value, np.float32))
