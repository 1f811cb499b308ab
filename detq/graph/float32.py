"""Graphs that compute in other types, or on several images at once, brought to detq's terms."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from detq.errors import CheckpointError
from detq.graph.execute import compile_exact
from detq.graph.surgery import nodes_of_type, producer

_OTHER_FLOATS = (ov.Type.f16, ov.Type.bf16, ov.Type.f64)
_MOST_BATCH = 64


def in_float32(model: ov.Model, where: str) -> None:
    """Let constants, input and what is computed with them be float32; changes the model.

    Numbers of 16 bits are the same in 32. Raises CheckpointError if something in the graph insists
    on another type.
    """
    for parameter in model.get_parameters():
        if parameter.get_element_type() != ov.Type.f32 and not _is_index(parameter):
            parameter.set_element_type(ov.Type.f32)
    for node in nodes_of_type(model, "Constant"):
        if node.get_element_type() in _OTHER_FLOATS:
            fresh = ops.constant(np.asarray(node.get_data(), np.float32))
            fresh.set_friendly_name(node.get_friendly_name())
            node.output(0).replace(fresh.output(0))
    for node in nodes_of_type(model, "Convert"):
        if node.get_output_element_type(0) in _OTHER_FLOATS:
            node.output(0).replace(ops.convert(node.input_value(0), "f32").output(0))
    for node in nodes_of_type(model, "Range"):
        if node.get_output_element_type(0) in _OTHER_FLOATS:
            node.output(0).replace(ops.range(*node.input_values(), "f32").output(0))
    try:
        model.validate_nodes_and_infer_types()
    except RuntimeError:
        raise CheckpointError(
            f"{where}: computes in half precision in a way that cannot be undone; export it in "
            "float32"
        ) from None
    for node in nodes_of_type(model, "Convert"):
        if node.get_output_element_type(0) == ov.Type.f32 == node.get_input_element_type(0):
            node.output(0).replace(node.input_value(0))
    model.validate_nodes_and_infer_types()


def _is_index(parameter: ov.Node) -> bool:
    """Whole numbers that are no image."""
    shape = parameter.get_partial_shape()
    return parameter.get_element_type().is_integral() and len(shape) != 4


def one_image_at_a_time(model: ov.Model, image: ov.Output, where: str) -> None:
    """Bring a graph that was exported for a fixed batch to a batch of one; changes the model.

    Shapes that are written out for the batch are rewritten, and the result is compared with what
    the graph made of the batch before. Raises CheckpointError if they differ.
    """
    shape = image.get_partial_shape()
    if shape[0].is_dynamic or shape[0].get_length() == 1:
        return
    batch = shape[0].get_length()
    advice = f"{where}: was exported for a batch of {batch}; export it for a batch of 1"
    if shape.is_dynamic or not 1 < batch <= _MOST_BATCH or len(model.inputs) > 1:
        raise CheckpointError(advice)
    before = compile_exact(model.clone())
    # First of all: what is rewritten fits a batch of one alone.
    model.get_parameters()[0].set_partial_shape(ov.PartialShape([1, *list(shape)[1:]]))
    for node in nodes_of_type(model, "Reshape"):
        target = producer(node, 1)
        if target.get_type_name() != "Constant":
            continue
        entries = np.array(target.get_data()).reshape(-1)
        if len(entries) and entries[0] == batch:
            entries[0] = 1
            node.input(1).replace_source_output(ops.constant(entries.astype(np.int64)).output(0))
    try:
        model.validate_nodes_and_infer_types()
        after = compile_exact(model)
        pixels = np.random.default_rng(0).random(list(shape.to_shape()), np.float32)
        many, one = before(pixels), after(pixels[:1])
        same = all(
            len(one[i]) == 1
            and np.allclose(one[i], np.asarray(many[i])[:1], rtol=1e-3, atol=1e-3, equal_nan=True)
            for i in range(len(model.outputs))
        )
    except (RuntimeError, ValueError, IndexError, TypeError):
        same = False
    if not same:
        raise CheckpointError(advice)
