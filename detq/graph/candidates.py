"""Graphs that end in a choice of the best: their table of all candidates becomes the output.

A graph cut before its suppression has boxes and scores as outputs; where both come from one table
of predictions, that table does, as in a file that was exported without suppression.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.errors import CheckpointError
from detq.graph.surgery import nodes_of_type, producer, producers, upstream
from detq.records import SizeHW

RESHAPING = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Transpose", "Convert"})


def join_table(model: ov.Model, counts: set[int], *, centre_size: bool) -> None:
    """Make the two outputs of a cut graph one table where they have one; changes the model.

    ``counts`` are the numbers of predictions that the input size may give. Without a common table
    the outputs become boxes [1, N, 4] (x1, y1, x2, y2) and scores of all classes.
    """
    boxes = _without_class_offset(model.outputs[0].get_node().input_value(0))
    scores = _of_all_classes(model.outputs[1].get_node().input_value(0))
    table = _common_table(model, boxes.get_node(), scores.get_node(), counts)
    for result in model.get_results():
        model.remove_result(result)
    if table is not None:
        model.add_results([ops.result(table.output(0))])
        return
    count = boxes.get_partial_shape()[1]
    if len(boxes.get_partial_shape()) == 4:  # one box for all classes: [1, N, 1, 4]
        boxes = ops.reshape(boxes, [1, count.get_length(), 4], False).output(0)
    if centre_size:
        centre, size = ops.split(boxes, 2, 2).outputs()
        half = ops.multiply(size, np.float32(0.5))
        corners = [ops.subtract(centre, half), ops.add(centre, half)]
        boxes = ops.concat(corners, 2).output(0)
    model.add_results([ops.result(boxes), ops.result(scores)])


def cut_before_selection(model: ov.Model, counts: set[int]) -> bool:
    """Cut a graph that ends in a choice of the best, [1, K, 6], before it; changes the model.

    Its last table of all candidates becomes the output: the boxes and the scores of which the
    choice was made both come from it. False, and no change, for any other graph.
    """
    shape = model.outputs[0].get_partial_shape()
    if len(model.outputs) != 1 or shape.is_dynamic or len(shape) != 3:
        return False
    if shape[2].get_length() != 6:
        return False
    if not nodes_of_type(model, "TopK"):
        return False
    end = producer(model.get_results()[0])
    if end.get_type_name() != "Concat":
        return False
    others = counts - {shape[1].get_length()}  # a table of as many is the choice itself
    table = _common_table(model, producer(end, 0), producer(end, 1), others)
    if table is None:
        return False
    model.remove_result(model.get_results()[0])
    model.add_results([ops.result(table.output(0))])
    return True


def _common_table(
    model: ov.Model, boxes: ov.Node, scores: ov.Node, counts: set[int]
) -> ov.Node | None:
    """The last table of all candidates from which both boxes and scores are taken."""
    common = {node.get_name() for node in origins(boxes)}
    common &= {node.get_name() for node in origins(scores)}
    tables = [
        node
        for node in model.get_ordered_ops()
        if node.get_name() in common and _is_table(node, counts)
    ]
    return tables[-1] if tables else None


def origins(node: ov.Node) -> Iterator[ov.Node]:
    """What the node's numbers are taken from, not what says which of them."""
    pending, seen = [node], set[str]()
    while pending:
        node = pending.pop()
        if node.get_name() in seen:
            continue
        seen.add(node.get_name())
        yield node
        above = producers(node)
        picks = node.get_type_name().startswith("Gather") or node.get_type_name() == "TopK"
        pending.extend(above[:1] if picks else above)


def _is_table(node: ov.Node, counts: set[int]) -> bool:
    if len(node.outputs()) != 1 or node.get_type_name() == "Constant":
        return False
    shape = node.get_output_partial_shape(0)
    if shape.is_dynamic or len(shape) != 3:
        return False
    sides = {shape[1].get_length(), shape[2].get_length()}
    return bool(sides & counts) and min(sides) >= 5


def _without_class_offset(boxes: ov.Output) -> ov.Output:
    """Exporters shift the boxes of each class far away, so that one suppression serves all."""
    node = boxes.get_node()
    while node.get_type_name() in RESHAPING:
        node = producer(node)
    if node.get_type_name() != "Add":
        return boxes
    for this, other in ((0, 1), (1, 0)):
        above = [producer(node, other), *upstream([producer(node, other)])]
        if any(each.get_type_name() == "TopK" for each in above):
            return node.input_value(this)
    return boxes


def _of_all_classes(scores: ov.Output) -> ov.Output:
    """The scores of which only the best per location went on."""
    node, shape = scores.get_node(), scores.get_partial_shape()
    if shape.is_dynamic or 1 not in [side.get_length() for side in list(shape)[1:]]:
        return scores
    while node.get_type_name() in RESHAPING:
        node = producer(node)
    if node.get_type_name() in ("ReduceMax", "TopK"):
        return node.input_value(0)
    return scores


def constant_inputs(
    model: ov.Model, image: ov.Output, size_hw: SizeHW, where: str
) -> frozenset[str]:
    """Give every input but the image its neutral value; changes the model.

    PaddleDetection's networks also take ``scale_factor`` (how much smaller the image became: 1)
    and ``im_shape``; RT-DETR's ``orig_target_sizes``, by which boxes in shares of the image are
    multiplied (1); DETR's ``pixel_mask`` (1 where the input shows the image). The names of those
    that there were. Raises CheckpointError for any other.
    """
    neutral: dict[str, npt.ArrayLike] = {
        "scale_factor": [[1, 1]],
        "im_shape": [size_hw],
        "orig_target_sizes": [[1, 1]],
        "pixel_mask": np.ones((1, *size_hw)),
    }
    found = set[str]()
    for parameter in model.get_parameters():
        names = parameter.output(0).get_names()
        if names & image.get_names():
            continue
        known = names & set(neutral)
        if not known:
            raise CheckpointError(
                f"{where}: takes {', '.join(sorted(names))} beside the image; export it with the "
                "image as its only input"
            )
        found |= known
        kind = parameter.get_element_type().to_dtype()
        value = ops.constant(np.asarray(neutral[known.pop()], kind))
        parameter.output(0).replace(value.output(0))
        model.remove_parameter(parameter)
    return frozenset(found)
