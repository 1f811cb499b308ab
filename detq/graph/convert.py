"""torch module, ONNX file or OpenVINO IR -> :class:`DetectorGraph`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from detq.errors import CheckpointError, GraphError
from detq.graph.detector_graph import INPUT, DetectorGraph, output_name
from detq.graph.surgery import nodes_of_type, part_of
from detq.records import ModelSpec, ReparamConvolution, SizeHW, Task, placeholder_names

_TORCH_NAME = re.compile(r"^__module\.(?P<path>[^/]+)/")
_CONVOLUTION_TYPES = ("Convolution", "GroupConvolution", "ConvolutionBackpropData")


def from_torch(module: Any, spec: ModelSpec) -> DetectorGraph:
    """Trace a float module whose ``forward`` obeys the contract, for ``spec.size_hw``.

    ``module`` is a ``torch.nn.Module`` in eval mode, not changed. Convolutions in the graph are
    named by their module path (``backbone.stem.conv``).
    """
    shape = [1, 3, *spec.size_hw]
    model = ov.convert_model(module, example_input=np.zeros(shape, np.float32), input=shape)
    for node in nodes_of_type(model, *_CONVOLUTION_TYPES):
        if match := _TORCH_NAME.match(node.get_friendly_name()):
            node.set_friendly_name(match["path"])
    _name_ports(model, spec.name, spec.task)
    return DetectorGraph(model, spec)


def from_onnx(
    path: Path, *, size_hw: SizeHW | None = None, class_names: Sequence[str] | None = None
) -> DetectorGraph:
    """A float ONNX file as YOLOv6's exporter writes it, without end-to-end NMS.

    Its output [B, N, 5 + nc] (box, objectness, classes) is brought to the contract: scores are
    class times objectness, which is the constant 1 from version 0.2 on. ``class_names`` default to
    placeholders, because the file holds none.

    Raises CheckpointError for a file that is no ONNX model or has another layout.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path")
    try:
        ov.Core().read_model(path)  # convert_model tries every other format on a damaged file
        model = ov.convert_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(f"{path}: not a readable ONNX model ({reason})") from None
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise CheckpointError(
            f"{path}: expected 1 input and 1 output, found {len(model.inputs)} and "
            f"{len(model.outputs)}; export it without end-to-end NMS"
        )
    _make_static(model, size_hw, path)
    columns = _check_yolov6_layout(model, path)
    names = tuple(class_names) if class_names else placeholder_names(columns - 5)
    _use_contract_output(model, len(names) if class_names else columns - 5)
    _name_ports(model, path.stem)
    height, width = model.inputs[0].get_shape()[2:]
    count = model.outputs[0].get_shape()[2]
    spec = ModelSpec(
        name=path.stem,
        family="yolov6",
        class_names=names,
        strides=_strides((height, width), count, path),
        size_hw=(height, width),
        reparameterized=_reparameterized_by_name(model),
    )
    return DetectorGraph(model, spec)


def from_ir(path: Path, spec: ModelSpec) -> DetectorGraph:
    """An OpenVINO IR (``.xml`` beside its ``.bin``) that obeys the contract but for its port
    names.
    """
    try:
        model = ov.Core().read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(f"{path}: not a readable OpenVINO IR ({reason})") from None
    _make_static(model, spec.size_hw, path)
    _name_ports(model, spec.name, spec.task)
    return DetectorGraph(model, spec)


def resized(graph: DetectorGraph, size_hw: SizeHW) -> DetectorGraph:
    """The same network for another input size, where its graph allows it."""
    if size_hw == graph.spec.size_hw:
        return graph
    model = graph.model.clone()
    _make_static(model, size_hw, Path(graph.spec.name))
    return DetectorGraph(model, replace(graph.spec, size_hw=size_hw))


def _make_static(model: ov.Model, size_hw: SizeHW | None, path: Path) -> None:
    shape = model.inputs[0].get_partial_shape()
    if shape.rank.is_dynamic or len(shape) != 4:
        raise CheckpointError(f"{path}: expected an image input [B, 3, H, W], found {shape}")
    sides = [None if side.is_dynamic else side.get_length() for side in (shape[2], shape[3])]
    wanted = size_hw or tuple(side or 640 for side in sides)
    try:
        model.reshape([1, 3, *wanted])
    except RuntimeError:
        raise CheckpointError(
            f"{path}: its graph is fixed to {sides[0]}x{sides[1]} (HxW); pass that as --imgsz, or "
            f"export it again for {wanted[0]}x{wanted[1]}"
        ) from None


def _check_yolov6_layout(model: ov.Model, path: Path) -> int:
    """Number of columns of the output [1, N, 5 + nc]."""
    shape = model.outputs[0].get_partial_shape()
    if shape.is_dynamic or len(shape) != 3 or shape[2].get_length() < 6:
        raise CheckpointError(f"{path}: expected an output [B, N, 5 + classes], found {shape}")
    rows, columns = shape[1].get_length(), shape[2].get_length()
    if rows < columns:
        raise CheckpointError(
            f"{path}: output {shape} has fewer rows than columns; expected [B, N, 5 + classes]"
        )
    return int(columns)


def _use_contract_output(model: ov.Model, class_count: int) -> None:
    """[1, N, 5 + nc] -> [1, 4 + nc, N], scores multiplied by the objectness column."""
    result = model.get_results()[0]
    columns = result.input_value(0)
    if columns.get_shape()[2] != 5 + class_count:
        raise GraphError(
            f"{model.get_friendly_name()}: {columns.get_shape()[2] - 5} classes in the output, "
            f"{class_count} names given"
        )
    boxes, objectness, scores = ops.variadic_split(columns, 2, [4, 1, class_count]).outputs()
    joined = ops.concat([boxes, ops.multiply(scores, objectness)], 2)
    output = ops.transpose(joined, [0, 2, 1])
    model.remove_result(result)
    model.add_results([ops.result(output)])


def _strides(size_hw: SizeHW, count: int, path: Path) -> tuple[int, ...]:
    """3 levels (8, 16, 32) or 4 (8 … 64): whichever gives that many predictions."""
    for strides in ((8, 16, 32), (8, 16, 32, 64)):
        if count == sum(-(-size_hw[0] // s) * -(-size_hw[1] // s) for s in strides):
            return strides
    raise CheckpointError(
        f"{path}: {count} predictions at {size_hw[0]}x{size_hw[1]} fit neither 3 nor 4 levels"
    )


def _reparameterized_by_name(model: ov.Model) -> tuple[ReparamConvolution, ...]:
    """YOLOv6's exporter keeps the module path in node names; fused blocks are ``rbr_reparam``."""
    return tuple(
        ReparamConvolution(node.get_friendly_name(), part)
        for node in nodes_of_type(model, "Convolution")
        if "rbr_reparam" in node.get_friendly_name()
        and (part := part_of(node.get_friendly_name())) is not None
    )


def _name_ports(model: ov.Model, name: str, task: Task = "detect") -> None:
    model.set_friendly_name(name)
    output = output_name(task)
    for port, port_name in ((model.inputs[0], INPUT), (model.outputs[0], output)):
        port.get_tensor().set_names({port_name})
    model.get_parameters()[0].set_friendly_name(INPUT)
    model.get_results()[0].set_friendly_name(f"{output}/result")
