"""An ONNX file of any known layout -> :class:`DetectorGraph`."""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import onnx
import openvino as ov
from google.protobuf.message import DecodeError
from openvino import opset15 as ops

from detq.errors import CheckpointError, GraphError
from detq.files import text_stem
from detq.graph.convert import make_static, name_ports
from detq.graph.detector_graph import DetectorGraph
from detq.graph.execute import compile_exact
from detq.graph.onnx_layouts import (
    Evidence,
    Layout,
    Outputs,
    Pixels,
    built_in_pixels,
    cell_count,
    prediction_counts,
    read_outputs,
    recognise,
)
from detq.graph.onnx_nms import constant_inputs, cut_before_suppression, join_table
from detq.graph.parts import name_parts, reparameterized_convolutions
from detq.graph.resize import resized
from detq.records import Fit, ModelSpec, SizeHW, placeholder_names

Array = npt.NDArray[np.float32]

_USUAL_SIDE = 640


def from_onnx(
    path: Path,
    *,
    size_hw: SizeHW | None = None,
    class_names: Sequence[str] | None = None,
    layout: str | None = None,
) -> DetectorGraph:
    """A float ONNX detector, with or without end-to-end suppression, of fixed or free size.

    Its layout (:data:`detq.graph.onnx_layouts.LAYOUTS`) is recognised by shapes, names and
    structure unless ``layout`` says it. Colour order and scale of its input become part of the
    graph. ``class_names`` default to those in the file, else to placeholders.

    Raises CheckpointError for a file that is no ONNX model, or whose layout is unknown or open.
    """
    proto = _read(path)
    cut = cut_before_suppression(proto, str(path))
    model = _converted(proto if cut is None else cut.proto, path)
    image = _image_input(model, path)
    fixed = _fixed_size(image)
    make_static(model, fixed or size_hw or (_USUAL_SIDE, _USUAL_SIDE), path, image)
    scale_factor = constant_inputs(model, image, str(path))
    height, width = image.get_partial_shape()[2:]
    own = (height.get_length(), width.get_length())
    if cut is not None:
        join_table(model, prediction_counts(own), centre_size=cut.centre_size)
    _drop_levels_beside_table(model)
    model.validate_nodes_and_infer_types()
    outputs = read_outputs(model, own, str(path))
    evidence = Evidence(scale_factor, outputs.form == "rows" and _objectness_is_one(model))
    chosen = recognise(model, outputs, evidence, layout, str(path))
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    model, spec = _to_contract(model, chosen, outputs, own, path, metadata, class_names)
    graph = DetectorGraph(model, spec)
    return resized(graph, size_hw or own)


def _read(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path")
    try:
        proto = onnx.load(path)
    except (DecodeError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(f"{path}: not a readable ONNX model ({reason})") from None
    if not proto.graph.node or not proto.graph.output:
        raise CheckpointError(f"{path}: not a readable ONNX model (no graph in it)")
    return proto


def _converted(proto: onnx.ModelProto, path: Path) -> ov.Model:
    try:
        return ov.convert_model(io.BytesIO(proto.SerializeToString()))
    except Exception as error:  # the converter's errors have no common root
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path}: not a readable ONNX model ({lines[-1]})") from None


def _image_input(model: ov.Model, path: Path) -> ov.Output:
    """The input of rank 4 and three channels."""
    ports = [
        port
        for port in model.inputs
        if port.get_partial_shape().rank.is_static and len(port.get_partial_shape()) == 4
    ]
    if len(ports) != 1 or not ports[0].get_partial_shape()[1].compatible(ov.Dimension(3)):
        found = ", ".join(str(port.get_partial_shape()) for port in model.inputs)
        raise CheckpointError(f"{path}: expected an image input [B, 3, H, W], found {found}")
    return ports[0].get_node().output(0)


def _fixed_size(image: ov.Output) -> SizeHW | None:
    height, width = list(image.get_partial_shape())[2:]
    if height.is_dynamic or width.is_dynamic:
        return None
    return height.get_length(), width.get_length()


def _drop_levels_beside_table(model: ov.Model) -> None:
    """Some exporters add each level's raw map to the table of all; changes the model."""
    results = model.get_results()
    tables = [each for each in results if len(each.get_output_partial_shape(0)) == 3]
    if len(tables) == 1:
        for result in results:
            if result not in tables:
                model.remove_result(result)


def _objectness_is_one(model: ov.Model) -> bool:
    """Of every prediction on two images of noise: YOLOv6 from 0.2 on writes a constant there."""
    run = compile_exact(model)
    noise = np.random.default_rng(0).random((2, *model.inputs[0].get_shape()), np.float32)
    return all(bool((np.asarray(run(image)[0])[..., 4] == 1).all()) for image in noise)


def _to_contract(
    model: ov.Model,
    layout: Layout,
    outputs: Outputs,
    size_hw: SizeHW,
    path: Path,
    metadata: dict[str, str],
    class_names: Sequence[str] | None,
) -> tuple[ov.Model, ModelSpec]:
    boxes, scores = _boxes_and_scores(model, layout, outputs, size_hw)
    output = ops.concat([boxes, scores], 1)
    count = scores.get_shape()[1]
    names = tuple(class_names or _stored_names(metadata) or placeholder_names(count))
    if len(names) != count:
        raise GraphError(f"{path.stem}: {count} classes in the output, {len(names)} names given")
    _take_rgb(model, built_in_pixels(model, layout.pixels))
    final = ov.Model([ops.result(output)], model.get_parameters(), text_stem(path))
    name_ports(final, text_stem(path))
    name_parts(final)
    stored = _stored_details(metadata)
    fit = next((known for known in get_args(Fit) if known == stored.get("fit")), layout.fit)
    spec = ModelSpec(
        name=text_stem(path),
        family=stored.get("family", layout.name),
        class_names=names,
        strides=outputs.strides,
        size_hw=size_hw,
        fit=fit,
    )
    return final, replace(spec, reparameterized=reparameterized_convolutions(final))


def _boxes_and_scores(
    model: ov.Model, layout: Layout, outputs: Outputs, size_hw: SizeHW
) -> tuple[ov.Output, ov.Output]:
    """[1, 4, N] centre and size in input pixels, and [1, nc, N]."""
    values = [result.input_value(0) for result in model.get_results()]
    if outputs.form == "pair":
        boxes, scores = sorted(values, key=lambda value: value.get_shape()[2] != 4)
        if scores.get_shape()[1] == boxes.get_shape()[1]:
            scores = ops.transpose(scores, [0, 2, 1]).output(0)
        boxes = ops.transpose(boxes, [0, 2, 1]).output(0)
    else:
        table = _table(values, outputs)
        rest = table.get_shape()[1] - 4
        lengths = [4, 1, rest - 1] if layout.has_objectness else [4, rest]
        boxes, *factors = ops.variadic_split(table, 1, lengths).outputs()
        scores = factors[-1]
        if layout.has_objectness:
            scores = ops.multiply(scores, factors[0]).output(0)
    if layout.decode != "none":
        boxes = _decoded(boxes, layout, outputs.strides, size_hw)
    return (_centre_size(boxes) if layout.corners else boxes), scores


def _table(values: list[ov.Output], outputs: Outputs) -> ov.Output:
    """[1, columns, N]; maps of logits per level [1, 3, h, w, columns] go through a sigmoid."""
    if outputs.form == "columns":
        return values[0]
    if outputs.form == "rows":
        return ops.transpose(values[0], [0, 2, 1]).output(0)
    largest_first = sorted(values, key=lambda value: -value.get_shape()[2] * value.get_shape()[3])
    rows = [
        ops.reshape(ops.transpose(value, [0, 4, 1, 2, 3]), [1, outputs.width, -1], False)
        for value in largest_first
    ]
    return ops.sigmoid(ops.concat(rows, 2)).output(0)


def _decoded(
    boxes: ov.Output, layout: Layout, strides: tuple[int, ...], size_hw: SizeHW
) -> ov.Output:
    """What the network left to the program behind it.

    ``exponential`` (YOLOX, arXiv 2107.08430): centre (p + cell) * stride, size exp(p) * stride.
    ``anchors`` (YOLOv5, on p after the sigmoid): centre (2 p - 1/2 + cell) * stride, size
    (2 p)**2 * anchor.
    """
    cells, steps = cell_grid(size_hw, strides, layout.per_cell)
    centre, size = ops.split(boxes, 1, 2).outputs()
    if layout.decode == "exponential":
        sides = ops.multiply(ops.exp(size), steps)
    else:
        centre = ops.subtract(ops.multiply(centre, np.float32(2)), np.float32(0.5)).output(0)
        anchors = [
            np.repeat(np.array(level, np.float32).T, cell_count(size_hw, stride), 1)
            for level, stride in zip(layout.anchors, strides, strict=True)
        ]
        doubled = ops.multiply(size, np.float32(2))
        sides = ops.multiply(ops.multiply(doubled, doubled), np.concatenate(anchors, 1)[None])
    return ops.concat([ops.multiply(ops.add(centre, cells), steps), sides], 1).output(0)


def cell_grid(size_hw: SizeHW, strides: tuple[int, ...], per_cell: int) -> tuple[Array, Array]:
    """Column and row of the cell of each prediction [1, 2, N], and its stride [1, 1, N].

    Level by level, in each anchor by anchor, in each row by row.
    """
    cells, steps = [], []
    for stride in strides:
        height, width = (-(-side // stride) for side in size_hw)
        rows, columns = np.mgrid[:height, :width]
        cells.append(np.tile(np.stack((columns, rows)).reshape(2, -1), (1, per_cell)))
        steps.append(np.full((1, per_cell * height * width), stride))
    joined = [np.concatenate(parts, 1)[None].astype(np.float32) for parts in (cells, steps)]
    return joined[0], joined[1]


def _centre_size(corners: ov.Output) -> ov.Output:
    """[1, 4, N]: x1, y1, x2, y2 -> cx, cy, w, h."""
    low, high = ops.split(corners, 1, 2).outputs()
    centre = ops.multiply(ops.add(low, high), np.float32(0.5))
    return ops.concat([centre, ops.subtract(high, low)], 1).output(0)


def _take_rgb(model: ov.Model, pixels: Pixels) -> None:
    """Let the graph make what it wants of RGB in 0..1; changes the model."""
    parameter = model.get_parameters()[0]
    targets = list(parameter.output(0).get_target_inputs())
    value = parameter.output(0)
    if pixels.bgr:
        value = ops.gather(value, np.array([2, 1, 0]), np.int64(1)).output(0)
    std = np.array(pixels.std, np.float32).reshape(1, 3, 1, 1)
    factor = np.float32(pixels.largest) / std
    shift = -np.array(pixels.mean, np.float32).reshape(1, 3, 1, 1) / std
    if (factor != 1).any():
        value = ops.multiply(value, factor).output(0)
    if (shift != 0).any():
        value = ops.add(value, shift).output(0)
    for target in targets:
        target.replace_source_output(value)


def _stored_names(metadata: dict[str, str]) -> tuple[str, ...] | None:
    """Class names as Ultralytics and detq write them: a Python dictionary, or a JSON one."""
    try:
        names = ast.literal_eval(metadata.get("names", "None"))
    except (ValueError, SyntaxError):
        return None
    if isinstance(names, dict):
        names = [names.get(index) for index in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def _stored_details(metadata: dict[str, str]) -> dict[str, str]:
    """What detq wrote about a model of its own that its tensors do not say."""
    try:
        details: Any = json.loads(metadata.get("detq", "{}"))
    except ValueError:
        return {}
    known = details if isinstance(details, dict) else {}
    return {key: known[key] for key in ("family", "fit") if isinstance(known.get(key), str)}
