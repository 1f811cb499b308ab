"""Operations that move elements and compute nothing, in ONNX; every shape is a constant."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openvino as ov

from detq.errors import GraphError
from detq.onnx_export.onnx_inputs import (
    Operation,
    all_inputs,
    first_input,
    int64_constant,
    integers,
)
from detq.onnx_export.onnx_writer import OnnxWriter


def _concat(writer: OnnxWriter, node: ov.Node) -> None:
    writer.write(node, "Concat", all_inputs(writer, node), axis=int(node.get_attributes()["axis"]))


def _split(writer: OnnxWriter, node: ov.Node) -> None:
    (axis,) = integers(node, 1)
    lengths = [port.get_shape()[axis] for port in node.outputs()]
    sizes = int64_constant(writer, node, lengths, "lengths")
    writer.write(node, "Split", [first_input(writer, node), sizes], axis=axis)


def _reshape(writer: OnnxWriter, node: ov.Node) -> None:
    shape = int64_constant(writer, node, list(node.get_output_shape(0)), "shape")
    writer.write(node, "Reshape", [first_input(writer, node), shape])


def _broadcast(writer: OnnxWriter, node: ov.Node) -> None:
    if node.get_attributes().get("mode", "numpy") == "explicit":
        raise GraphError(f"{node.get_friendly_name()}: only numpy's broadcasting is written")
    shape = int64_constant(writer, node, list(node.get_output_shape(0)), "shape")
    writer.write(node, "Expand", [first_input(writer, node), shape])


def _tile(writer: OnnxWriter, node: ov.Node) -> None:
    repeats = int64_constant(writer, node, integers(node, 1), "repeats")
    writer.write(node, "Tile", [first_input(writer, node), repeats])


def _transpose(writer: OnnxWriter, node: ov.Node) -> None:
    order = integers(node, 1) or list(range(len(node.get_output_shape(0))))[::-1]
    writer.write(node, "Transpose", [first_input(writer, node)], perm=order)


def _shuffle(writer: OnnxWriter, node: ov.Node) -> None:
    """Channels in groups, read across the groups."""
    attributes, name = node.get_attributes(), node.get_friendly_name()
    shape = list(node.get_output_shape(0))
    axis, group = int(attributes["axis"]) % len(shape), int(attributes["group"])
    parted = [*shape[:axis], group, shape[axis] // group, *shape[axis + 1 :]]
    order = list(range(len(parted)))
    order[axis], order[axis + 1] = axis + 1, axis
    apart = int64_constant(writer, node, parted, "groups")
    (groups,) = writer.emit("Reshape", [first_input(writer, node), apart], f"{name}/apart")
    (turned,) = writer.emit("Transpose", [groups], f"{name}/turned", perm=order)
    writer.write(node, "Reshape", [turned, int64_constant(writer, node, shape, "shape")])


def _strided_slice(writer: OnnxWriter, node: ov.Node) -> None:
    """By the shapes on both sides; a dimension that is dropped is dropped by a Reshape."""
    found, name = node.get_attributes(), node.get_friendly_name()
    if any(any(found[mask]) for mask in ("new_axis_mask", "ellipsis_mask")):
        raise GraphError(f"{name}: a StridedSlice that adds or skips axes is not written")
    begin, end = integers(node, 1), integers(node, 2)
    step = integers(node, 3) if len(node.inputs()) > 3 else [1] * len(begin)
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
        int64_constant(writer, node, values, what)
        for values, what in (
            (starts, "starts"),
            (stops, "ends"),
            (list(range(len(begin))), "axes"),
            (step, "steps"),
        )
    ]
    if not dropped:
        writer.write(node, "Slice", [first_input(writer, node), *inputs])
        return
    (part,) = writer.emit("Slice", [first_input(writer, node), *inputs], f"{name}/part")
    shape = int64_constant(writer, node, list(node.get_output_shape(0)), "shape")
    writer.write(node, "Reshape", [part, shape])


def _masked(mask: list[int], axis: int) -> bool:
    return axis < len(mask) and bool(mask[axis])


def _slice(writer: OnnxWriter, node: ov.Node) -> None:
    rank = len(node.get_input_shape(0))
    axes = integers(node, 4) if len(node.inputs()) > 4 else list(range(rank))
    values = [integers(node, 1), integers(node, 2), axes, integers(node, 3)]
    names = ("starts", "ends", "axes", "steps")
    inputs = [int64_constant(writer, node, *pair) for pair in zip(values, names, strict=True)]
    writer.write(node, "Slice", [first_input(writer, node), *inputs])


def _gather(writer: OnnxWriter, node: ov.Node) -> None:
    if int(node.get_attributes().get("batch_dims", 0)):
        raise GraphError(f"{node.get_friendly_name()}: Gather over a batch is not written")
    (axis,) = integers(node, 2)
    inputs = [writer.value(node.input_value(index)) for index in range(2)]
    writer.write(node, "Gather", inputs, axis=axis)


def _pad(writer: OnnxWriter, node: ov.Node) -> None:
    mode = str(node.get_attributes()["pad_mode"])
    if mode not in ("constant", "reflect", "edge"):
        raise GraphError(f"{node.get_friendly_name()}: ONNX has no padding {mode!r}")
    widths = [*integers(node, 1), *integers(node, 2)]
    inputs = [first_input(writer, node), int64_constant(writer, node, widths, "pads")]
    if mode == "constant" and len(node.inputs()) > 3:
        inputs.append(writer.value(node.input_value(3)))
    writer.write(node, "Pad", inputs, mode=mode)


def _depth_to_space(writer: OnnxWriter, node: ov.Node) -> None:
    found = node.get_attributes()
    mode = "DCR" if str(found["mode"]) == "blocks_first" else "CRD"
    writer.write(
        node,
        "DepthToSpace",
        [first_input(writer, node)],
        blocksize=int(found["block_size"]),
        mode=mode,
    )


MOVEMENTS: Mapping[str, Operation] = {
    "Broadcast": _broadcast,
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "ShuffleChannels": _shuffle,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _reshape,
    "StridedSlice": _strided_slice,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
    "VariadicSplit": _split,
}
