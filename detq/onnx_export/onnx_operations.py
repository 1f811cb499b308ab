"""How each OpenVINO operation is written in ONNX; every shape is static, so shapes are constants.

``OPERATIONS`` maps an operation type to a function that writes one node of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import openvino as ov
from onnx import helper

from detq.errors import GraphError
from detq.graph.surgery import producer
from detq.onnx_export.onnx_quantizers import write_fake_quantize
from detq.onnx_export.onnx_weighted import (
    padding,
    write_convolution,
    write_matmul,
    write_transposed,
)
from detq.onnx_export.onnx_writer import OnnxWriter, Tensor, constant_data

Operation = Callable[[OnnxWriter, ov.Node], None]

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
        writer.write(node, kind, _inputs(writer, node))

    return write


def _inputs(writer: OnnxWriter, node: ov.Node) -> list[str]:
    return [writer.value(port) for port in node.input_values()]


def _first(writer: OnnxWriter, node: ov.Node) -> str:
    return writer.value(node.input_value(0))


def _known(node: ov.Node, index: int) -> Tensor:
    """The value of an input that must be constant. Raises GraphError if it is not."""
    constant = producer(node, index)
    if constant.get_type_name() != "Constant":
        raise GraphError(
            f"{node.get_friendly_name()}: input {index} of {node.get_type_name()} is not constant"
        )
    return constant_data(constant)


def _integers(node: ov.Node, index: int) -> list[int]:
    return [int(value) for value in np.atleast_1d(_known(node, index))]


def _int64(writer: OnnxWriter, node: ov.Node, values: list[int], what: str) -> str:
    return writer.constant(np.array(values, np.int64), f"{node.get_friendly_name()}/{what}")


def _scalar(writer: OnnxWriter, node: ov.Node, value: float, what: str) -> str:
    return writer.constant(np.array(value, np.float32), f"{node.get_friendly_name()}/{what}")


def _swish(writer: OnnxWriter, node: ov.Node) -> None:
    value, name = _first(writer, node), node.get_friendly_name()
    scaled = value
    if len(node.inputs()) > 1 and float(_known(node, 1)) != 1:
        (scaled,) = writer.emit("Mul", _inputs(writer, node), f"{name}/scaled")
    (gate,) = writer.emit("Sigmoid", [scaled], f"{name}/gate")
    writer.write(node, "Mul", [value, gate])


def _mish(writer: OnnxWriter, node: ov.Node) -> None:
    value, name = _first(writer, node), node.get_friendly_name()
    (soft,) = writer.emit("Softplus", [value], f"{name}/softplus")
    (gate,) = writer.emit("Tanh", [soft], f"{name}/gate")
    writer.write(node, "Mul", [value, gate])


def _gelu(writer: OnnxWriter, node: ov.Node) -> None:
    if node.get_attributes().get("approximation_mode", "ERF").upper() != "ERF":
        raise GraphError(f"{node.get_friendly_name()}: only the exact GELU is written")
    value, name = _first(writer, node), node.get_friendly_name()
    root = _scalar(writer, node, float(np.sqrt(2)), "root")
    (scaled,) = writer.emit("Div", [value, root], f"{name}/scaled")
    (curve,) = writer.emit("Erf", [scaled], f"{name}/erf")
    (above,) = writer.emit("Add", [curve, _scalar(writer, node, 1, "one")], f"{name}/above")
    (half,) = writer.emit("Mul", [value, _scalar(writer, node, 0.5, "half")], f"{name}/scaled_half")
    writer.write(node, "Mul", [half, above])


def _hsigmoid(writer: OnnxWriter, node: ov.Node) -> None:
    writer.write(node, "HardSigmoid", [_first(writer, node)], alpha=1 / 6, beta=0.5)


def _hard_sigmoid(writer: OnnxWriter, node: ov.Node) -> None:
    alpha, beta = float(_known(node, 1)), float(_known(node, 2))
    writer.write(node, "HardSigmoid", [_first(writer, node)], alpha=alpha, beta=beta)


def _clamp(writer: OnnxWriter, node: ov.Node) -> None:
    ends = node.get_attributes()
    low, high = (_scalar(writer, node, ends[key], key) for key in ("min", "max"))
    writer.write(node, "Clip", [_first(writer, node), low, high])


def _elu(writer: OnnxWriter, node: ov.Node) -> None:
    writer.write(node, "Elu", [_first(writer, node)], alpha=node.get_attributes()["alpha"])


def _prelu(writer: OnnxWriter, node: ov.Node) -> None:
    """Its slopes belong to channels, where ONNX would align them with the last axis."""
    slopes = _known(node, 1)
    if slopes.ndim == 1 and slopes.size > 1:
        slopes = slopes.reshape(-1, *[1] * (len(node.get_output_shape(0)) - 2))
    slope = writer.constant(slopes, f"{node.get_friendly_name()}/slope")
    writer.write(node, "PRelu", [_first(writer, node), slope])


def _softmax(writer: OnnxWriter, node: ov.Node) -> None:
    writer.write(node, "Softmax", [_first(writer, node)], axis=int(node.get_attributes()["axis"]))


def _concat(writer: OnnxWriter, node: ov.Node) -> None:
    writer.write(node, "Concat", _inputs(writer, node), axis=int(node.get_attributes()["axis"]))


def _split(writer: OnnxWriter, node: ov.Node) -> None:
    (axis,) = _integers(node, 1)
    lengths = [port.get_shape()[axis] for port in node.outputs()]
    sizes = _int64(writer, node, lengths, "lengths")
    writer.write(node, "Split", [_first(writer, node), sizes], axis=axis)


def _reshape(writer: OnnxWriter, node: ov.Node) -> None:
    shape = _int64(writer, node, list(node.get_output_shape(0)), "shape")
    writer.write(node, "Reshape", [_first(writer, node), shape])


def _broadcast(writer: OnnxWriter, node: ov.Node) -> None:
    if node.get_attributes().get("mode", "numpy") == "explicit":
        raise GraphError(f"{node.get_friendly_name()}: only numpy's broadcasting is written")
    shape = _int64(writer, node, list(node.get_output_shape(0)), "shape")
    writer.write(node, "Expand", [_first(writer, node), shape])


def _tile(writer: OnnxWriter, node: ov.Node) -> None:
    repeats = _int64(writer, node, _integers(node, 1), "repeats")
    writer.write(node, "Tile", [_first(writer, node), repeats])


def _transpose(writer: OnnxWriter, node: ov.Node) -> None:
    order = _integers(node, 1) or list(range(len(node.get_output_shape(0))))[::-1]
    writer.write(node, "Transpose", [_first(writer, node)], perm=order)


def _shuffle(writer: OnnxWriter, node: ov.Node) -> None:
    """Channels in groups, read across the groups."""
    attributes, name = node.get_attributes(), node.get_friendly_name()
    shape = list(node.get_output_shape(0))
    axis, group = int(attributes["axis"]) % len(shape), int(attributes["group"])
    parted = [*shape[:axis], group, shape[axis] // group, *shape[axis + 1 :]]
    order = list(range(len(parted)))
    order[axis], order[axis + 1] = axis + 1, axis
    apart = _int64(writer, node, parted, "groups")
    (groups,) = writer.emit("Reshape", [_first(writer, node), apart], f"{name}/apart")
    (turned,) = writer.emit("Transpose", [groups], f"{name}/turned", perm=order)
    writer.write(node, "Reshape", [turned, _int64(writer, node, shape, "shape")])


def _reduce(kind: str) -> Operation:
    def write(writer: OnnxWriter, node: ov.Node) -> None:
        axes, keep = _integers(node, 1), int(node.get_attributes()["keep_dims"])
        inputs: list[str] = [_first(writer, node)]
        attributes: dict[str, Any] = {"keepdims": keep}
        if kind == "ReduceSum":  # the first to take its axes as an input
            inputs.append(_int64(writer, node, axes, "axes"))
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
        (value,) = writer.emit(kind, [_first(writer, node)], name, **attributes)
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
    writer.write(node, "Resize", [_first(writer, node), "", scale], **attributes)


def _strided_slice(writer: OnnxWriter, node: ov.Node) -> None:
    """By the shapes on both sides; a dimension that is dropped is dropped by a Reshape."""
    found, name = node.get_attributes(), node.get_friendly_name()
    if any(any(found[mask]) for mask in ("new_axis_mask", "ellipsis_mask")):
        raise GraphError(f"{name}: a StridedSlice that adds or skips axes is not written")
    begin, end = _integers(node, 1), _integers(node, 2)
    step = _integers(node, 3) if len(node.inputs()) > 3 else [1] * len(begin)
    last = np.iinfo(np.int64).max
    starts, stops, dropped = [], [], False
    for axis, (low, high) in enumerate(zip(begin, end, strict=True)):
        shrinks = _masked(found["shrink_axis_mask"], axis)
        dropped |= shrinks
        free = last if step[axis] > 0 else -last
        opens = 0 if step[axis] > 0 else last
        starts.append(opens if _masked(found["begin_mask"], axis) and not shrinks else low)
        stop = free if _masked(found["end_mask"], axis) else high
        stops.append((low + 1 if low != -1 else last) if shrinks else stop)
    inputs = [
        _int64(writer, node, values, what)
        for values, what in (
            (starts, "starts"),
            (stops, "ends"),
            (list(range(len(begin))), "axes"),
            (step, "steps"),
        )
    ]
    if not dropped:
        writer.write(node, "Slice", [_first(writer, node), *inputs])
        return
    (part,) = writer.emit("Slice", [_first(writer, node), *inputs], f"{name}/part")
    shape = _int64(writer, node, list(node.get_output_shape(0)), "shape")
    writer.write(node, "Reshape", [part, shape])


def _masked(mask: list[int], axis: int) -> bool:
    return axis < len(mask) and bool(mask[axis])


def _slice(writer: OnnxWriter, node: ov.Node) -> None:
    rank = len(node.get_input_shape(0))
    axes = _integers(node, 4) if len(node.inputs()) > 4 else list(range(rank))
    values = [_integers(node, 1), _integers(node, 2), axes, _integers(node, 3)]
    names = ("starts", "ends", "axes", "steps")
    inputs = [_int64(writer, node, *pair) for pair in zip(values, names, strict=True)]
    writer.write(node, "Slice", [_first(writer, node), *inputs])


def _gather(writer: OnnxWriter, node: ov.Node) -> None:
    if int(node.get_attributes().get("batch_dims", 0)):
        raise GraphError(f"{node.get_friendly_name()}: Gather over a batch is not written")
    (axis,) = _integers(node, 2)
    inputs = [writer.value(node.input_value(index)) for index in range(2)]
    writer.write(node, "Gather", inputs, axis=axis)


def _pad(writer: OnnxWriter, node: ov.Node) -> None:
    mode = str(node.get_attributes()["pad_mode"])
    if mode not in ("constant", "reflect", "edge"):
        raise GraphError(f"{node.get_friendly_name()}: ONNX has no padding {mode!r}")
    widths = [*_integers(node, 1), *_integers(node, 2)]
    inputs = [_first(writer, node), _int64(writer, node, widths, "pads")]
    if mode == "constant" and len(node.inputs()) > 3:
        inputs.append(writer.value(node.input_value(3)))
    writer.write(node, "Pad", inputs, mode=mode)


def _convert(writer: OnnxWriter, node: ov.Node) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(node.get_element_type().to_dtype()))
    writer.write(node, "Cast", [_first(writer, node)], to=kind)


def _depth_to_space(writer: OnnxWriter, node: ov.Node) -> None:
    found = node.get_attributes()
    mode = "DCR" if str(found["mode"]) == "blocks_first" else "CRD"
    writer.write(
        node, "DepthToSpace", [_first(writer, node)], blocksize=int(found["block_size"]), mode=mode
    )


def _topk(writer: OnnxWriter, node: ov.Node) -> None:
    found = node.get_attributes()
    count = _int64(writer, node, _integers(node, 1), "k")
    name = node.get_friendly_name()
    made = writer.emit(
        "TopK",
        [_first(writer, node), count],
        name,
        outputs=2,
        axis=int(found["axis"]),
        largest=int(str(found["mode"]) == "max"),
        sorted=int(str(found["sort"]) != "none"),
    )
    for port, value in zip(node.outputs(), made, strict=True):
        writer.bind(port, value)


OPERATIONS: Mapping[str, Operation] = {
    **{kind: _plain(name) for kind, name in _SAME_NAMES.items()},
    **{kind: _reduce(kind) for kind in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")},
    "AvgPool": _pool("AveragePool"),
    "Broadcast": _broadcast,
    "Clamp": _clamp,
    "Concat": _concat,
    "Convert": _convert,
    "Convolution": write_convolution,
    "ConvolutionBackpropData": write_transposed,
    "DepthToSpace": _depth_to_space,
    "Elu": _elu,
    "FakeQuantize": write_fake_quantize,
    "Gather": _gather,
    "Gelu": _gelu,
    "GroupConvolution": write_convolution,
    "GroupConvolutionBackpropData": write_transposed,
    "HSigmoid": _hsigmoid,
    "HardSigmoid": _hard_sigmoid,
    "Interpolate": _interpolate,
    "MatMul": write_matmul,
    "MaxPool": _pool("MaxPool"),
    "Mish": _mish,
    "PRelu": _prelu,
    "Pad": _pad,
    "Reshape": _reshape,
    "ShuffleChannels": _shuffle,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _reshape,
    "StridedSlice": _strided_slice,
    "Swish": _swish,
    "Tile": _tile,
    "TopK": _topk,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
    "VariadicSplit": _split,
}
