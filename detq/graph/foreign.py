"""Graphs of other programs, ONNX or OpenVINO IR, of any known layout -> :class:`DetectorGraph`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from detq.errors import CheckpointError, DetqError, GraphError
from detq.files import text_stem
from detq.graph.candidates import constant_inputs, cut_before_selection, join_table
from detq.graph.convert import make_static, name_ports, read_ir
from detq.graph.decode import boxes_and_scores
from detq.graph.detector_graph import DetectorGraph
from detq.graph.float32 import in_float32, one_image_at_a_time
from detq.graph.layouts import Layout, Outputs, Pixels, prediction_counts, read_outputs
from detq.graph.metadata import embedded_metadata, other_task, stored_details, stored_names
from detq.graph.parts import name_parts, reparameterized_convolutions
from detq.graph.preparation import Preparation, preparation
from detq.graph.probing import ProbedNetwork
from detq.graph.queries import class_columns, read_queries
from detq.graph.recognition import Clues, plausible_layouts, recognise
from detq.graph.resize import resized
from detq.records import Fit, ModelSpec, SizeHW, placeholder_names
from detq.records.coco_names import COCO_IDS, COCO_NAMES

if TYPE_CHECKING:  # an OpenVINO IR is read without the package onnx
    import onnx

_USUAL_SIDE = 640


def from_onnx(
    path: Path,
    *,
    size_hw: SizeHW | None = None,
    class_names: Sequence[str] | None = None,
    layout: str | None = None,
) -> DetectorGraph:
    """A float ONNX detector, with or without end-to-end suppression, of fixed or free size.

    Its layout (:data:`detq.graph.layouts.LAYOUTS`) is recognised by shapes, names, structure and
    what it makes of made-up images, unless ``layout`` says it. Colour order and scale of its input
    become part of the graph. ``class_names`` default to those in the file, else to placeholders.

    A file that detq wrote says what it is, of whatever task, and is taken at its word unless
    ``layout`` is given or another program has changed its ports since.

    Raises CheckpointError for a file that is no ONNX model, or whose layout is unknown or open.
    """
    from detq.graph.onnx_reading import read_onnx  # noqa: PLC0415 - onnx may be missing
    from detq.graph.own_onnx import as_written  # noqa: PLC0415

    proto = read_onnx(path)
    own = None if layout else as_written(proto, path, class_names)
    if own is not None:
        return resized(own, size_hw or own.spec.size_hw)
    return _understood(_examined_onnx(proto, path, size_hw), layout, class_names, size_hw)


def from_bare_ir(
    path: Path,
    metadata: Mapping[str, str] | None = None,
    *,
    size_hw: SizeHW | None = None,
    layout: str | None = None,
) -> DetectorGraph:
    """An OpenVINO IR that detq did not write, recognised as :func:`from_onnx` does.

    ``metadata`` is what a file beside it says; without one, what OpenVINO's tools keep inside the
    IR counts. Raises CheckpointError.
    """
    return _understood(_read_bare_ir(path, metadata, size_hw), layout, None, size_hw)


def possible_layouts(path: Path, size_hw: SizeHW | None) -> tuple[str, ...]:
    """The layouts in which an ``.onnx`` or ``.xml`` gives boxes. Raises CheckpointError."""
    if path.suffix.lower() == ".onnx":
        from detq.graph.onnx_reading import read_onnx  # noqa: PLC0415 - onnx may be missing

        found = _examined_onnx(read_onnx(path), path, size_hw)
    else:
        found = _read_bare_ir(path, None, size_hw)
    return tuple(name for name, doubt in found.doubts.items() if doubt is None)


@dataclass(frozen=True)
class _Foreign:
    """A graph as its file has it, for one image of a fixed size, and what was found out of it."""

    path: Path
    model: ov.Model
    size_hw: SizeHW
    outputs: Outputs
    built_in: Preparation
    clues: Clues
    doubts: Mapping[str, str | None]
    metadata: Mapping[str, str]


def _examined_onnx(proto: onnx.ModelProto, path: Path, size_hw: SizeHW | None) -> _Foreign:
    from detq.graph.onnx_nms import cut_before_suppression  # noqa: PLC0415 - onnx may be missing
    from detq.graph.onnx_reading import check_onnx, converted, metadata_of  # noqa: PLC0415

    metadata = metadata_of(proto)
    _check_task(metadata, path)
    cut = cut_before_suppression(proto, str(path))
    kept = proto if cut is None else cut.proto
    check_onnx(kept, path)
    model, built_in = converted(kept, path)
    return _examined(
        model,
        built_in,
        path,
        metadata,
        size_hw,
        suppressed=None if cut is None else cut.centre_size,
    )


def _read_bare_ir(
    path: Path, metadata: Mapping[str, str] | None, size_hw: SizeHW | None
) -> _Foreign:
    model = read_ir(path)
    known = metadata or embedded_metadata(model)
    _check_task(known, path)
    return _examined(model, preparation(model), path, known, size_hw, suppressed=None)


def _check_task(metadata: Mapping[str, str], path: Path) -> None:
    if task := other_task(metadata):
        raise CheckpointError(
            f"{path}: a network for {task}, as it says itself; of such files detq reads "
            "detectors: export one"
        )


def _examined(
    model: ov.Model,
    built_in: Preparation,
    path: Path,
    metadata: Mapping[str, str],
    size_hw: SizeHW | None,
    *,
    suppressed: bool | None,
) -> _Foreign:
    """``suppressed``: whether the boxes in front of a suppression that was cut off are centre and
    size; None if there was none.
    """
    where = str(path)
    image = _image_input(model, path)
    in_float32(model, where)
    fixed = _fixed_size(image)
    one_image_at_a_time(model, image, where)
    own = fixed or size_hw or (_USUAL_SIDE, _USUAL_SIDE)
    given = constant_inputs(model, image, own, where)
    make_static(model, own, path)
    model.validate_nodes_and_infer_types()  # a size that is there already is not looked at again
    counts = prediction_counts(own)
    if suppressed is not None:
        join_table(model, counts, centre_size=suppressed)
    outputs = None if suppressed is not None else read_queries(model, own, counts, given)
    if outputs is None:
        end_to_end = suppressed is None and cut_before_selection(model, counts)
        _drop_levels_beside_table(model)
        model.validate_nodes_and_infer_types()
        cut = suppressed is not None
        outputs = replace(read_outputs(model, own, where), end_to_end=end_to_end, cut=cut)
    probed = ProbedNetwork(model, outputs, own, built_in)
    stored = stored_names(metadata)
    clues = Clues(
        scale_factor="scale_factor" in given,
        objectness_is_one=probed.objectness_is_one,
        activated=probed.activated,
        stem=probed.stem,
        class_count=None if stored is None else len(stored),
    )
    doubts = plausible_layouts(outputs, clues, probed.doubt)
    return _Foreign(path, model, own, outputs, built_in, clues, doubts, metadata)


def _understood(
    found: _Foreign,
    layout: str | None,
    class_names: Sequence[str] | None,
    size_hw: SizeHW | None,
) -> DetectorGraph:
    """In the layout that is wanted, or the one that it must be."""
    chosen = recognise(
        found.model, found.outputs, found.clues, layout, found.doubts, str(found.path)
    )
    take_rgb(found.model, found.built_in.left(chosen.pixels))
    names = class_names or stored_names(found.metadata)
    return resized(_in_contract(found, chosen, names), size_hw or found.size_hw)


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


def _in_contract(
    found: _Foreign, layout: Layout, class_names: Sequence[str] | None
) -> DetectorGraph:
    path, outputs = found.path, found.outputs
    values = [result.input_value(0) for result in found.model.get_results()]
    boxes, scores = boxes_and_scores(
        values, layout, outputs, found.size_hw, activated=found.clues.activated
    )
    kept = tuple(range(scores.get_shape()[1]))
    if outputs.form == "queries":
        known = len(class_names) if class_names else None
        kept = class_columns(layout, outputs.width, known) or kept
    if len(kept) < scores.get_shape()[1]:
        scores = ops.gather(scores, np.array(kept), np.int64(1)).output(0)
    output = ops.concat([boxes, scores], 1)
    count = len(kept)
    names = tuple(class_names or _usual_names(layout, kept))
    if len(names) != count:
        raise GraphError(f"{path}: {count} classes in the output, {len(names)} names given")
    final = ov.Model([ops.result(output)], found.model.get_parameters(), text_stem(path))
    name_ports(final, text_stem(path))
    name_parts(final)
    stored = stored_details(found.metadata)
    fit = next((known for known in get_args(Fit) if known == stored.get("fit")), layout.fit)
    try:
        spec = ModelSpec(
            name=text_stem(path),
            family=stored.get("family", layout.name),
            class_names=names,
            strides=outputs.strides,
            size_hw=found.size_hw,
            fit=fit,
            end_to_end=layout.end_to_end,
        )
    except DetqError as error:
        raise CheckpointError(f"{path}: {error}") from None
    convolutions = reparameterized_convolutions(final)
    return DetectorGraph(final, replace(spec, reparameterized=convolutions))


def _usual_names(layout: Layout, columns: tuple[int, ...]) -> tuple[str, ...]:
    """Of a file that names no classes."""
    if "faces" in layout.forms:
        return ("face",)
    return COCO_NAMES if columns == COCO_IDS else placeholder_names(len(columns))


def take_rgb(model: ov.Model, pixels: Pixels) -> None:
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
