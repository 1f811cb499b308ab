"""Bias correction: take back the shift of each output channel's mean that quantization causes.

For every convolution the mean of ``float(x) - quantized(x)`` is measured per output channel on the
*float* activations ``x``, weights and inputs rounded and clipped exactly as in the final graph,
zero padding at the borders included. Adding it to the bias makes each layer unbiased given unbiased
inputs, so all layers are corrected in one pass (Nagel et al., arXiv 1906.04721, section 4.2, with
measured means).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.errors import CalibrationError
from detq.graph.execute import compile_exact, outputs_of
from detq.graph.surgery import (
    CONVOLUTIONS,
    bypass,
    constant_input,
    constant_value,
    consumers,
    nodes_of_type,
    producer,
    producers,
    replace_constant_input,
)

Image = npt.NDArray[np.float32]


def correct_biases(placed: ov.Model, images: Iterable[Image]) -> int:
    """Add the measured mean errors to the biases behind quantized convolutions; changes the model.

    ``images`` float32 [1, 3, H, W]. Returns the number of biases corrected. Raises
    CalibrationError if there was no image.
    """
    pairs = _biases_and_ends(placed)
    if not pairs:
        return 0
    compiled = compile_exact(_error_model(placed, pairs))
    total = [np.zeros(output.get_shape(), np.float64) for output in compiled.outputs]
    count = 0
    for errors in outputs_of(compiled, images):
        total = [mean + error for mean, error in zip(total, errors, strict=True)]
        count += 1
    if count == 0:
        raise CalibrationError("bias correction saw no data; give it at least one readable image")
    for (bias_add, _), error in zip(pairs, total, strict=True):
        shift_bias(bias_add, error / count)
    placed.validate_nodes_and_infer_types()
    return len(pairs)


def _error_model(placed: ov.Model, pairs: list[tuple[ov.Node, ov.Node]]) -> ov.Model:
    """For each pair the mean of (float - quantized) at its end: results [1, O, 1, 1], in order.

    Two copies of the graph are joined: in the first every FakeQuantize is bypassed, in the second
    the quantizers read the first one's float activations, so that each layer's error is its own.
    """
    order = [node.get_name() for node in placed.get_ordered_ops()]
    exact, rounded = placed.clone(), placed.clone()
    exact_nodes = dict(zip(order, exact.get_ordered_ops(), strict=True))
    rounded_nodes = dict(zip(order, rounded.get_ordered_ops(), strict=True))
    for node in nodes_of_type(placed, "FakeQuantize"):
        if _reads_layer_input(node):
            above = node.input_value(0)
            twin = exact_nodes[above.get_node().get_name()].output(above.get_index())
            rounded_nodes[node.get_name()].input(0).replace_source_output(twin)
    for node in nodes_of_type(exact, "FakeQuantize"):
        bypass(node)
    results = []
    for _, end in pairs:
        error = ops.subtract(exact_nodes[end.get_name()], rounded_nodes[end.get_name()])
        results.append(ops.result(ops.reduce_mean(error, ops.constant([0, 2, 3]), True)))
    return ov.Model(results, exact.get_parameters(), "bias_errors")


def _reads_layer_input(quantizer: ov.Node) -> bool:
    """False for quantizers of weights, and of a split convolution's branch before its sum.

    Only the fine branch has one: the coarse branch's is gone before biases are corrected.
    """
    above = producer(quantizer)
    return constant_value(above) is None and above.get_type_name() not in CONVOLUTIONS


def _biases_and_ends(placed: ov.Model) -> list[tuple[ov.Node, ov.Node]]:
    """(bias Add, last node of the same linear layer) for every quantized convolution with a bias.

    The end differs from the bias where a split convolution's other branch joins behind it.
    """
    pairs = []
    for convolution in nodes_of_type(placed, *CONVOLUTIONS, "ConvolutionBackpropData"):
        if producer(convolution, 1).get_type_name() != "FakeQuantize":
            continue
        users = consumers(convolution)
        if len(users) != 1 or users[0].get_type_name() != "Add":
            continue
        bias_add = users[0]
        if all(constant_value(above) is None for above in producers(bias_add)):
            continue
        after = consumers(bias_add)
        joins = len(after) == 1 and after[0].get_type_name() == "Add" and _joins_branch(after[0])
        pairs.append((bias_add, after[0] if joins else bias_add))
    return pairs


def shift_bias(bias_add: ov.Node, shift: npt.NDArray[np.floating]) -> None:
    """Add ``shift`` [1, O, 1, 1] to the constant of a bias Add; changes the model."""
    index = constant_input(bias_add)
    if index is None:
        raise CalibrationError(f"{bias_add.get_friendly_name()}: neither input is constant")
    bias = np.asarray(constant_value(producer(bias_add, index)))
    corrected = bias.reshape(1, -1, 1, 1) + shift
    replace_constant_input(bias_add, index, corrected.astype(np.float32))


def _joins_branch(node: ov.Node) -> bool:
    """True for a sum with the bare convolution of another branch, quantized or not."""
    for above in producers(node):
        branch = producer(above) if above.get_type_name() == "FakeQuantize" else above
        if branch.get_type_name() in CONVOLUTIONS:
            return True
    return False
