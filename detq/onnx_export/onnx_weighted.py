"""Convolutions and products with their weights and biases, in ONNX."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import openvino as ov

from detq.errors import GraphError
from detq.graph.surgery import constant_value, consumers, producer
from detq.onnx_export.onnx_quantizers import (
    Floats,
    activation_grid,
    stored_weight,
    write_bias,
    write_weight,
)
from detq.onnx_export.onnx_writer import OnnxWriter


def write_convolution(writer: OnnxWriter, node: ov.Node) -> None:
    """Convolution and GroupConvolution, kernels (O, I/G, kH, kW)."""
    shape = tuple(node.get_input_shape(1))
    groups = shape[0] if node.get_type_name() == "GroupConvolution" else 1
    if groups > 1 or len(shape) == 5:
        shape = (shape[0] * shape[1], *shape[2:])
    _write(writer, node, "Conv", shape, axis=0, group=groups)


def write_transposed(writer: OnnxWriter, node: ov.Node) -> None:
    """ConvolutionBackpropData and its grouped form, kernels (I, O/G, kH, kW)."""
    if len(node.inputs()) > 2:
        raise GraphError(f"{node.get_friendly_name()}: an output shape of its own is not written")
    shape, groups = tuple(node.get_input_shape(1)), 1
    if node.get_type_name() == "GroupConvolutionBackpropData":
        groups, shape = shape[0], (shape[0] * shape[1], *shape[2:])
    extra = list(node.get_attributes()["output_padding"])
    _write(writer, node, "ConvTranspose", shape, axis=1, group=groups, output_padding=extra)


def write_matmul(writer: OnnxWriter, node: ov.Node) -> None:
    """MatMul, its transpositions as operations of their own."""
    found, name, inputs = node.get_attributes(), node.get_friendly_name(), []
    for index, flag in enumerate(("transpose_a", "transpose_b")):
        value = writer.value(node.input_value(index))
        if found[flag]:
            order = list(range(len(node.get_input_shape(index))))
            order[-2:] = order[:-3:-1]
            (value,) = writer.emit("Transpose", [value], f"{name}/turned_{index}", perm=order)
        inputs.append(value)
    writer.write(node, "MatMul", inputs)


def padding(node: ov.Node) -> dict[str, Any]:
    """ONNX's padding attributes of a convolution or pooling."""
    found = node.get_attributes()
    automatic = str(found.get("auto_pad", "explicit"))
    if automatic in ("explicit", "notset"):
        return {"pads": [*found["pads_begin"], *found["pads_end"]]}
    return {"auto_pad": automatic.upper()}


def _write(
    writer: OnnxWriter,
    node: ov.Node,
    kind: str,
    shape: tuple[int, ...],
    *,
    axis: int,
    group: int,
    **attributes: Any,
) -> None:
    """A convolution, with the constant that is added to it as its bias."""
    name, found = node.get_friendly_name(), node.get_attributes()
    weight, scale = _weight(writer, node, shape, axis)
    inputs = [writer.value(node.input_value(0)), weight]
    addition = _bias_addition(node, shape[0] if axis == 0 else shape[1] * group)
    result = node
    if addition is not None:
        result, bias = addition
        inputs.append(_bias(writer, node, bias, scale if group == 1 or axis == 0 else None))
    (value,) = writer.emit(
        kind,
        inputs,
        name,
        kernel_shape=list(shape[2:]),
        strides=list(found["strides"]),
        dilations=list(found["dilations"]),
        group=group,
        **padding(node),
        **attributes,
    )
    writer.bind(result.output(0), value)


def _weight(
    writer: OnnxWriter, node: ov.Node, shape: tuple[int, ...], axis: int
) -> tuple[str, Floats | None]:
    """The value of a kernel, and the step of each output channel if it is of integers."""
    name = node.get_friendly_name()
    stored = stored_weight(producer(node, 1))
    if stored is not None:
        return write_weight(writer, stored, shape, axis, name)
    kernel = constant_value(producer(node, 1))
    if kernel is None or kernel.dtype.kind != "f":
        raise GraphError(f"{name}: its weights are not constant; such a convolution is not written")
    return writer.constant(kernel.astype(np.float32).reshape(shape), f"{name}.weight"), None


def _bias(writer: OnnxWriter, node: ov.Node, bias: Floats, scale: Floats | None) -> str:
    """On the accumulator's grid where both operands are integers, else in float."""
    name, above = node.get_friendly_name(), producer(node)
    if scale is not None and above.get_type_name() == "FakeQuantize":
        grid = activation_grid(above)
        if grid.axis is None:
            return write_bias(writer, bias, scale * grid.scale, name)
    return writer.constant(bias.astype(np.float32), f"{name}.bias")


def _bias_addition(node: ov.Node, channels: int) -> tuple[ov.Node, Floats] | None:
    """The Add that gives a convolution its bias, and the bias of each output channel."""
    users = consumers(node)
    if len(users) != 1 or users[0].get_type_name() != "Add":
        return None
    (other,) = [
        above
        for port in users[0].input_values()
        if (above := port.get_node()).get_name() != node.get_name()
    ] or [node]
    rank = len(node.get_output_shape(0))
    if other.get_type_name() != "Constant":
        return None
    bias = np.asarray(constant_value(other))
    full = (1,) * (rank - bias.ndim) + bias.shape
    if bias.dtype.kind != "f" or prod(full) != full[1] or full[1] not in (1, channels):
        return None
    return users[0], np.broadcast_to(bias.reshape(-1), (channels,)).astype(np.float32)
