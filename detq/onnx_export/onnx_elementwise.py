"""Operations that compute each element by itself, in ONNX: arithmetic, activations, casts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openvino as ov
from onnx import helper

from detq.errors import GraphError
from detq.onnx_export.onnx_inputs import (
    Operation,
    all_inputs,
    first_input,
    float_constant,
    known_input,
)
from detq.onnx_export.onnx_writer import OnnxWriter

_SAME_NAMES = {
    "Abs": "Abs",
    "Add": "Add",
    "Divide": "Div",
    "Erf": "Erf",
    "Exp": "Exp",
    "Floor": "Floor",
    "Log": "Log",
    "Maximum": "Max",
    "Minimum": "Min",
    "Multiply": "Mul",
    "Negative": "Neg",
    "Power": "Pow",
    "Relu": "Relu",
    "Sigmoid": "Sigmoid",
    "SoftPlus": "Softplus",
    "Sqrt": "Sqrt",
    "Subtract": "Sub",
    "Tanh": "Tanh",
    "HSwish": "HardSwish",
    "Greater": "Greater",
    "Less": "Less",
    "Select": "Where",
}
"""Operations that read the same inputs in the same order and need nothing said."""


def _plain(kind: str) -> Operation:
    def write(writer: OnnxWriter, node: ov.Node) -> None:
        writer.write(node, kind, all_inputs(writer, node))

    return write


def _swish(writer: OnnxWriter, node: ov.Node) -> None:
    value, name = first_input(writer, node), node.get_friendly_name()
    scaled = value
    if len(node.inputs()) > 1 and float(known_input(node, 1)) != 1:
        (scaled,) = writer.emit("Mul", all_inputs(writer, node), f"{name}/scaled")
    (gate,) = writer.emit("Sigmoid", [scaled], f"{name}/gate")
    writer.write(node, "Mul", [value, gate])


def _mish(writer: OnnxWriter, node: ov.Node) -> None:
    value, name = first_input(writer, node), node.get_friendly_name()
    (soft,) = writer.emit("Softplus", [value], f"{name}/softplus")
    (gate,) = writer.emit("Tanh", [soft], f"{name}/gate")
    writer.write(node, "Mul", [value, gate])


def _gelu(writer: OnnxWriter, node: ov.Node) -> None:
    if node.get_attributes().get("approximation_mode", "ERF").upper() != "ERF":
        raise GraphError(f"{node.get_friendly_name()}: only the exact GELU is written")
    value, name = first_input(writer, node), node.get_friendly_name()
    root = float_constant(writer, node, float(np.sqrt(2)), "root")
    (scaled,) = writer.emit("Div", [value, root], f"{name}/scaled")
    (curve,) = writer.emit("Erf", [scaled], f"{name}/erf")
    one, half = (float_constant(writer, node, *pair) for pair in ((1, "one"), (0.5, "half")))
    (above,) = writer.emit("Add", [curve, one], f"{name}/above")
    (scaled_half,) = writer.emit("Mul", [value, half], f"{name}/scaled_half")
    writer.write(node, "Mul", [scaled_half, above])


def _hsigmoid(writer: OnnxWriter, node: ov.Node) -> None:
    writer.write(node, "HardSigmoid", [first_input(writer, node)], alpha=1 / 6, beta=0.5)


def _hard_sigmoid(writer: OnnxWriter, node: ov.Node) -> None:
    alpha, beta = float(known_input(node, 1)), float(known_input(node, 2))
    writer.write(node, "HardSigmoid", [first_input(writer, node)], alpha=alpha, beta=beta)


def _clamp(writer: OnnxWriter, node: ov.Node) -> None:
    ends = node.get_attributes()
    low, high = (float_constant(writer, node, ends[key], key) for key in ("min", "max"))
    writer.write(node, "Clip", [first_input(writer, node), low, high])


def _elu(writer: OnnxWriter, node: ov.Node) -> None:
    writer.write(node, "Elu", [first_input(writer, node)], alpha=node.get_attributes()["alpha"])


def _prelu(writer: OnnxWriter, node: ov.Node) -> None:
    """Its slopes belong to channels, where ONNX would align them with the last axis."""
    slopes = known_input(node, 1)
    if slopes.ndim == 1 and slopes.size > 1:
        slopes = slopes.reshape(-1, *[1] * (len(node.get_output_shape(0)) - 2))
    slope = writer.constant(slopes, f"{node.get_friendly_name()}/slope")
    writer.write(node, "PRelu", [first_input(writer, node), slope])


def _convert(writer: OnnxWriter, node: ov.Node) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(node.get_element_type().to_dtype()))
    writer.write(node, "Cast", [first_input(writer, node)], to=kind)


ELEMENTWISE: Mapping[str, Operation] = {
    **{kind: _plain(name) for kind, name in _SAME_NAMES.items()},
    "Clamp": _clamp,
    "Convert": _convert,
    "Elu": _elu,
    "Gelu": _gelu,
    "HSigmoid": _hsigmoid,
    "HardSigmoid": _hard_sigmoid,
    "Mish": _mish,
    "PRelu": _prelu,
    "Swish": _swish,
}
