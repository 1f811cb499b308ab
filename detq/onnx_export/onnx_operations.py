"""How each OpenVINO operation is written in ONNX; every shape is static, so shapes are constants.

``OPERATIONS`` maps an operation type to a function that writes one node of it. Here are those that
compute an element from several of one tensor: reductions, pooling, resizing, the largest ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov

from detq.errors import GraphError
from detq.onnx_export.onnx_elementwise import ELEMENTWISE
from detq.onnx_export.onnx_inputs import Operation, first_input, int64_constant, integers
from detq.onnx_export.onnx_movements import MOVEMENTS
from detq.onnx_export.onnx_quantizers import write_fake_quantize
from detq.onnx_export.onnx_weighted import (
    padding,
    write_convolution,
    write_matmul,
    write_transposed,
)
from detq.onnx_export.onnx_writer import OnnxWriter


def _softmax(writer: OnnxWriter, node: ov.Node) -> None:
    writer.write(
        node, "Softmax", [first_input(writer, node)], axis=int(node.get_attributes()["axis"])
    )


def _reduce(kind: str) -> Operation:
    def write(writer: OnnxWriter, node: ov.Node) -> None:
        axes, keep = integers(node, 1), int(node.get_attributes()["keep_dims"])
        inputs: list[str] = [first_input(writer, node)]
        attributes: dict[str, Any] = {"keepdims": keep}
        if kind == "ReduceSum":  # the first to take its axes as an input
            inputs.append(int64_constant(writer, node, axes, "axes"))
        else:
            attributes["axes"] = axes
        writer.write(node, kind, inputs, **attributes)

    return write


def _pool(kind: str) -> Operation:
    def write(writer: OnnxWriter, node: ov.Node) -> None:
        found = node.get_attributes()
        if len(node.outputs()) > 1 and node.output(1).get_target_inputs():
            raise GraphError(f"{node.get_friendly_name()}: indices of a MaxPool are not written")
        attributes = {
            "kernel_shape": list(found["kernel"]),
            "strides": list(found["strides"]),
            "ceil_mode": int(str(found["rounding_type"]).startswith("ceil")),
            **padding(node),
        }
        if kind == "MaxPool":
            attributes["dilations"] = list(found.get("dilations", [1] * len(found["kernel"])))
        else:
            attributes["count_include_pad"] = int(not found["exclude-pad"])
        name = node.get_friendly_name()
        (value,) = writer.emit(kind, [first_input(writer, node)], name, **attributes)
        writer.bind(node.output(0), value)

    return write


_NEAREST = {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"}
_COORDINATES = {"half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"}
_MODES = {"nearest": "nearest", "linear": "linear", "linear_onnx": "linear", "cubic": "cubic"}


def _interpolate(writer: OnnxWriter, node: ov.Node) -> None:
    found = node.get_attributes()
    mode, coordinates = str(found["mode"]), str(found["coordinate_transformation_mode"])
    if mode not in _MODES or coordinates not in _COORDINATES or found.get("antialias"):
        raise GraphError(f"{node.get_friendly_name()}: no ONNX Resize does {mode}, {coordinates}")
    attributes: dict[str, Any] = {
        "mode": _MODES[mode],
        "coordinate_transformation_mode": coordinates,
    }
    if mode == "nearest":
        if found["nearest_mode"] not in _NEAREST:
            raise GraphError(f"{node.get_friendly_name()}: {found['nearest_mode']} is not in ONNX")
        attributes["nearest_mode"] = str(found["nearest_mode"])
    if mode == "cubic":
        attributes["cubic_coeff_a"] = float(found["cube_coeff"])
    before, after = node.get_input_shape(0), node.get_output_shape(0)
    scales = np.array([new / old for new, old in zip(after, before, strict=True)], np.float32)
    scale = writer.constant(scales, f"{node.get_friendly_name()}/scales")
    writer.write(node, "Resize", [first_input(writer, node), "", scale], **attributes)


def _topk(writer: OnnxWriter, node: ov.Node) -> None:
    found = node.get_attributes()
    count = int64_constant(writer, node, integers(node, 1), "k")
    name = node.get_friendly_name()
    made = writer.emit(
        "TopK",
        [first_input(writer, node), count],
        name,
        outputs=2,
        axis=int(found["axis"]),
        largest=int(str(found["mode"]) == "max"),
        sorted=int(str(found["sort"]) != "none"),
    )
    for port, value in zip(node.outputs(), made, strict=True):
        writer.bind(port, value)


OPERATIONS: Mapping[str, Operation] = {
    **ELEMENTWISE,
    **MOVEMENTS,
    **{kind: _reduce(kind) for kind in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")},
    "AvgPool": _pool("AveragePool"),
    "Convolution": write_convolution,
    "ConvolutionBackpropData": write_transposed,
    "FakeQuantize": write_fake_quantize,
    "GroupConvolution": write_convolution,
    "GroupConvolutionBackpropData": write_transposed,
    "Interpolate": _interpolate,
    "MatMul": write_matmul,
    "MaxPool": _pool("MaxPool"),
    "Softmax": _softmax,
    "TopK": _topk,
}
