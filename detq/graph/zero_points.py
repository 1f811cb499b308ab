"""Zero points move into biases, where that is exact, and back.

A pointwise convolution without padding need not know the zero point of what it reads: with
``x = u + low`` its output is ``conv(u) + low * sum(W)``, where ``u`` lies on the same grid without
a zero point, and the second term joins its bias. The graph says ``u = x - low`` behind the
quantizer; on x86 the runtime reads the integers as they are, elsewhere they are restored
(:func:`detq.graph.execute.compile_for`). With padding it would be wrong at the borders, whose
zeros are no zeros of ``u``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.graph.detector_graph import DetectorGraph
from detq.graph.layers import grid_of, layer_of, quantized_layers
from detq.graph.surgery import bypass, constant_value, consumers, nodes_of_type, producer, producers
from detq.numerics.integer_range import Range

Array = npt.NDArray[np.float32]


def fold_zero_points(model: ov.Model) -> list[str]:
    """Move them; changes the model. Returns the names of the convolutions."""
    changed = []
    for layer in quantized_layers(model):
        low = _zero_point_below(producer(layer.convolution)) if layer.absorbs_shift else None
        grid = layer.grid
        if low is None or grid is None:
            continue
        above = layer.convolution.input_value(0)
        shifted = ops.add(above, np.full((1, 1, 1, 1), -low, np.float32))
        shifted.set_friendly_name(f"{layer.name}/shift")
        layer.convolution.input(0).replace_source_output(shifted.output(0))
        layer.add_to_bias(low * _sums(grid.nearest(layer.weight)))
        changed.append(layer.name)
    model.validate_nodes_and_infer_types()
    return changed


def restore_zero_points(model: ov.Model) -> None:
    """Undo it, for programs that would add the shifts in float; changes the model.

    For convolutions whose weights are stored as integers, as they are in a finished graph.
    """
    for shift in nodes_of_type(model, "Add"):
        value = constant_value(producer(shift, 1))
        users = consumers(shift)
        if (
            value is not None
            and value.size == 1
            and _zero_point_below(producer(shift)) is not None
            and all(_is_stored_convolution(user) for user in users)
        ):
            for layer in map(layer_of, users):  # several, where OpenVINO made one of equal shifts
                layer.add_to_bias(value.item() * _sums(_stored(producer(layer.convolution, 1))))
            bypass(shift)


def without_folding(graph: DetectorGraph) -> DetectorGraph:
    """The same detector with every zero point where its quantizer has it: what Arm reads."""
    model = graph.model.clone()
    restore_zero_points(model)
    return DetectorGraph(model, graph.spec)


def _is_stored_convolution(node: ov.Node) -> bool:
    if node.get_type_name() != "Convolution":
        return False
    return bool(producer(node, 1).get_type_name() == "Multiply")


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
    grid = grid_of(node)
    if grid is None or grid.low.size != 1 or grid.high.size != 1:
        return None
    found = Range(float(grid.low.item()), float(grid.high.item()))
    return found.low if found.needs_zero_point else None
