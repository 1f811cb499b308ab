"""Zero points moved into biases, where that is exact.

A grid with a zero point costs the convolutions that read it time: 10 to 30% of it on CPUs with AMX,
and now and then ten times as much (docs/performance.md). A pointwise convolution without padding
need not pay: with ``x = u + low`` its output is ``conv(u) + low * sum(W)``, where ``u`` lies on the
same grid without a zero point, and the second term joins its bias. The graph says ``u = x - low``
behind the quantizer; the runtime reads the integers as they are. With padding it would be wrong at
the borders, whose zeros are no zeros of ``u``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.graph.surgery import (
    bypass,
    constant_value,
    consumers,
    nodes_of_type,
    producer,
    producers,
)
from detq.numerics.ranges import Range
from detq.quant.bias import shift_bias

Array = npt.NDArray[np.float32]

SHIFT_SUFFIX = "/shift"


def absorb_zero_points(placed: ov.Model) -> list[str]:
    """Let pointwise convolutions read tensors without their zero points; changes the model.

    The network computes the same. Biases are to be corrected before, weights may lie on their grids
    or not. Returns the names of the convolutions.
    """
    changed = []
    for node in nodes_of_type(placed, "Convolution"):
        low = _zero_point_below(producer(node)) if _is_pointwise(node) else None
        if low is None:
            continue
        shifted = ops.add(node.input_value(0), np.full((1, 1, 1, 1), -low, np.float32))
        shifted.set_friendly_name(f"{node.get_friendly_name()}{SHIFT_SUFFIX}")
        node.input(0).replace_source_output(shifted.output(0))
        shift_bias(consumers(node)[0], low * _sums(_rounded(producer(node, 1))))
        changed.append(node.get_friendly_name())
    placed.validate_nodes_and_infer_types()
    return changed


def pays_for_zero_point(node: ov.Node) -> bool:
    """True for a convolution that takes longer if its input has a zero point.

    That is one which cannot have it in its bias; grouped ones take no longer.
    """
    return node.get_type_name() == "Convolution" and not _is_pointwise(node)


def restore_zero_points(model: ov.Model) -> None:
    """Undo it, for programs that would add the shifts in float; changes the model.

    For a finished graph, whose weights are stored as integers.
    """
    for shift in nodes_of_type(model, "Add"):
        if shift.get_friendly_name().endswith(SHIFT_SUFFIX):
            (convolution,) = consumers(shift)
            value = constant_value(producer(shift, 1))
            if value is not None:
                sums = _sums(_stored(producer(convolution, 1)))
                shift_bias(consumers(convolution)[0], value.item() * sums)
                bypass(shift)


def _sums(weight: Array) -> Array:
    """[O, I, 1, 1] -> [1, O, 1, 1]."""
    return np.asarray(weight.sum(axis=(1, 2, 3)).reshape(1, -1, 1, 1), np.float32)


def _stored(node: ov.Node) -> Array:
    """The value of Multiply(Convert(int8 Constant), scale)."""
    integers, scale = producer(producer(node)).get_data(), producer(node, 1).get_data()
    return np.asarray(integers.astype(np.float32) * scale, np.float32)


def _zero_point_below(node: ov.Node) -> float | None:
    """The low end of the grid that all of a tensor has, if it has one with a zero point."""
    if node.get_type_name() == "Concat":
        lows = {_zero_point_below(above) for above in producers(node)}
        return lows.pop() if len(lows) == 1 else None
    if node.get_type_name() != "FakeQuantize":
        return None
    low, high = (constant_value(producer(node, index)) for index in (1, 2))
    if low is None or high is None or low.size != 1 or high.size != 1:
        return None
    grid = Range(float(low.item()), float(high.item()))
    return grid.low if grid.needs_zero_point else None


def _is_pointwise(node: ov.Node) -> bool:
    """True for a 1x1 convolution with rounded weights, no padding and a bias of its own."""
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


def _rounded(quantizer: ov.Node) -> Array:
    """The value that a FakeQuantize makes of its constant weights."""
    weight, low, high = (constant_value(producer(quantizer, index)) for index in range(3))
    if weight is None or low is None or high is None:
        raise ValueError(f"{quantizer.get_friendly_name()}: its weights are not constant")
    step = (high - low) / (quantizer.get_attributes()["levels"] - 1)
    places = np.rint((np.clip(weight, low, high) - low) / step)
    return np.asarray(places * step + low, np.float32)
