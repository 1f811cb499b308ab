"""Outputs of detectors that predict by queries (DETR and what came of it), brought to one form.

Their files end in several ways, by their exporters' documentation: ``labels``, ``boxes``,
``scores`` of the best (RT-DETR, D-FINE, DEIM) or one table of these (Ultralytics), which are cut
before that choice; logits and boxes of all queries apart (RF-DETR, Hugging Face) or in one table
(Ultralytics before 8.4).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from detq.graph.candidates import RESHAPING, origins
from detq.graph.layouts import STRIDES, Layout, Outputs
from detq.graph.surgery import nodes_of_type, producer, upstream
from detq.records import SizeHW
from detq.records.coco_names import COCO_IDS, COCO_NAMES

MOST_QUERIES = 3000
"""Published networks have 100 to 1750; tables of more are of cells that nobody knows."""
_LEAST_PATCH_PX = 8


def read_queries(
    model: ov.Model, size_hw: SizeHW, counts: set[int], inputs: frozenset[str]
) -> Outputs | None:
    """Make boxes [1, N, 4] (centre and size, in shares of the image) and scores [1, N, nc] the only
    outputs, in this order, if the model predicts by queries; None, and no change, else.

    ``counts`` are the numbers of predictions that cells would give, ``inputs`` the names of those
    beside the image.
    """
    spoken, activated = set[str](), None
    chosen = _before_choice(model)
    if chosen is not None:
        corners, scores = chosen
        low, high = ops.split(corners, 2, 2).outputs()
        centre = ops.multiply(ops.add(low, high), np.float32(0.5))
        boxes = ops.concat([centre, ops.subtract(high, low)], 2).output(0)
        spoken, activated = {"rtdetr-imagenet" if _has_patches(model) else "rtdetr"}, True
    elif (best := _before_table_of_best(model, counts)) is not None:
        boxes, scores = best
        spoken, activated = {"rtdetr"}, True
    elif (named := _named_pair(model, inputs)) is not None:
        boxes, scores, spoken = named
        activated = _is_activated(scores)
    elif (pair := _pair(model, counts)) is not None:
        boxes, scores = pair
    elif (table := _table(model, counts)) is not None:
        boxes, scores = ops.variadic_split(table, 2, [4, -1]).outputs()
        spoken, activated = {"rtdetr"}, True
    else:
        return None
    for result in model.get_results():
        model.remove_result(result)
    model.add_results([ops.result(boxes), ops.result(scores)])
    model.validate_nodes_and_infer_types()
    return Outputs(
        "queries",
        _strides(size_hw),
        1,
        scores.get_shape()[2],
        end_to_end=True,
        spoken_for=frozenset(spoken),
        activated=activated,
    )


def class_columns(layout: Layout, width: int, known: int | None) -> tuple[int, ...] | None:
    """Which columns of the scores are classes; None if there are not as many as ``known`` names.

    RF-DETR and DETR have one more, which is no class. Those trained on COCO have a column for every
    category id up to 90, of which 80 are given.
    """
    if width == layout.coco_columns and known in (None, len(COCO_NAMES)):
        return COCO_IDS
    count = width - layout.background
    if count < 1 or known not in (None, count):
        return None
    return tuple(range(count))


def _before_choice(model: ov.Model) -> tuple[ov.Output, ov.Output] | None:
    """Corners [1, N, 4] and scores [1, N, nc] of all queries, if the model gives those of the best,
    beside their classes as whole numbers.
    """
    ends = [result.input_value(0) for result in model.get_results()]
    if len(ends) != 3:
        return None
    labels = [end for end in ends if end.get_element_type().is_integral()]
    boxes = [end for end in ends if _is_table(end, 4)]
    scores = [end for end in ends if end not in labels and len(end.get_partial_shape()) == 2]
    if not len(labels) == len(boxes) == len(scores) == 1:
        return None
    return _of_all(boxes[0], scores[0])


def _before_table_of_best(model: ov.Model, counts: set[int]) -> tuple[ov.Output, ov.Output] | None:
    """The same of a table [1, K, 6]: centre and size in shares, as they leave a sigmoid, then
    score and class.
    """
    ends = [result.input_value(0).get_node() for result in model.get_results()]
    if len(ends) != 1 or ends[0].get_type_name() != "Concat":
        return None
    parts = list(ends[0].input_values())
    if not all(_is_table(part) for part in parts):
        return None
    if [part.get_shape()[2] for part in parts] != [4, 1, 1]:
        return None
    found = _of_all(parts[0], parts[1])
    if found is None or found[0].get_shape()[1] in counts or not _is_activated(found[0]):
        return None
    return found


def _of_all(boxes: ov.Output, scores: ov.Output) -> tuple[ov.Output, ov.Output] | None:
    """Boxes [1, N, 4] and scores [1, N, nc] of which those of the best were taken."""
    of_all, top = _before_top(scores)
    if top is not None:
        picks = [
            node
            for node in origins(boxes.get_node())
            if node.get_type_name().startswith("Gather") and _depends(producer(node, 1), top)
        ]
        if len(picks) != 1:
            return None
        boxes = picks[0].input_value(0)
    if not (_is_table(boxes, 4) and _is_table(of_all)):
        return None
    return (boxes, of_all) if boxes.get_shape()[1] == of_all.get_shape()[1] else None


def _before_top(scores: ov.Output) -> tuple[ov.Output, ov.Node | None]:
    """The scores of which the best were taken, over queries, over classes or both; by what."""
    top = None
    while True:
        node = scores.get_node()
        kind = node.get_type_name()
        if _is_table(scores) and kind != "TopK" and scores.get_shape()[2] > 1:
            return scores, top
        if kind == "TopK" and top is None:
            top = node
        elif kind not in ("TopK", "ReduceMax", "Identity", *RESHAPING):
            return scores, top
        scores = node.input_value(0)


def _named_pair(
    model: ov.Model, inputs: frozenset[str]
) -> tuple[ov.Output, ov.Output, set[str]] | None:
    """Outputs of RF-DETR (``dets``, ``labels``) and Hugging Face (``pred_boxes``, ``logits``)."""
    ends = {
        name: result.input_value(0)
        for result in model.get_results()
        for name in result.output(0).get_names() | result.input_value(0).get_names()
    }
    for names in (("dets", "labels"), ("pred_boxes", "logits")):
        if not set(names) <= set(ends) or any("mask" in name for name in ends):
            continue
        boxes, scores = (ends[name] for name in names)
        if not (_is_table(boxes, 4) and _is_table(scores)):
            continue
        if names[0] == "dets":
            return boxes, scores, {"rfdetr"}
        selects, patches = bool(nodes_of_type(model, "TopK")), _has_patches(model)
        if not selects or "pixel_mask" in inputs:  # DETR, or its heirs with a sigmoid
            return boxes, scores, {"detr", "rtdetr-imagenet"}
        return boxes, scores, {"rfdetr", "rtdetr-imagenet"} if patches else {"rtdetr"}
    return None


def _pair(model: ov.Model, counts: set[int]) -> tuple[ov.Output, ov.Output] | None:
    """Two outputs of other names with a row for each of a number of queries that no cells give."""
    ends = [result.input_value(0) for result in model.get_results()]
    if len(ends) != 2 or not all(_is_table(end) for end in ends):
        return None
    boxes = [end for end in ends if end.get_shape()[2] == 4]
    others = [end for end in ends if end not in boxes]
    rows = {end.get_shape()[1] for end in ends}
    if len(boxes) != 1 or len(rows) != 1 or not rows.isdisjoint(counts):
        return None
    return (boxes[0], others[0]) if rows.pop() <= MOST_QUERIES else None


def _table(model: ov.Model, counts: set[int]) -> ov.Output | None:
    """[1, N, 4 + nc] of queries that the network chose by itself."""
    ends = [result.input_value(0) for result in model.get_results()]
    if len(ends) != 1 or not _is_table(ends[0]) or not nodes_of_type(model, "TopK"):
        return None
    _, rows, width = ends[0].get_shape()
    if width < 5 or not {rows, width}.isdisjoint(counts) or rows > MOST_QUERIES:
        return None
    # What is chosen at the very end has one class per row, not a score for each.
    end = ends[0].get_node()
    parts = list(end.input_values()) if end.get_type_name() == "Concat" else []
    if len(parts) != 2 or [part.get_partial_shape()[-1] for part in parts] != [4, width - 4]:
        return None
    return ends[0]


def _is_table(end: ov.Output, columns: int | None = None) -> bool:
    shape = end.get_partial_shape()
    if shape.is_dynamic or len(shape) != 3 or shape[0] != 1:
        return False
    return end.get_element_type().is_real() and columns in (None, shape[2].get_length())


def _is_activated(scores: ov.Output) -> bool:
    """True behind a sigmoid or softmax. Logits may lie in 0..1, too."""
    node = scores.get_node()
    while node.get_type_name() in (*RESHAPING, "Identity"):
        node = producer(node)
    return node.get_type_name() in ("Sigmoid", "Softmax")


def _depends(node: ov.Node, other: ov.Node) -> bool:
    name = other.get_name()
    return node.get_name() == name or any(each.get_name() == name for each in upstream([node]))


def _has_patches(model: ov.Model) -> bool:
    """True if a convolution cuts the image into patches, as vision transformers begin."""
    return any(kernel >= _LEAST_PATCH_PX for kernel in _patch_sides(model))


def _patch_sides(model: ov.Model) -> Iterator[int]:
    for node in nodes_of_type(model, "Convolution"):
        kernel, strides = list(node.get_input_shape(1)), list(node.get_attributes()["strides"])
        if kernel[1] == 3 and kernel[2:] == strides:
            yield kernel[2]


def _strides(size_hw: SizeHW) -> tuple[int, ...]:
    """RT-DETR's; for a size that these do not divide, what divides it: queries have no cells."""
    if all(side % STRIDES[0][-1] == 0 for side in size_hw):
        return STRIDES[0]
    return (int(np.gcd.reduce([*size_hw, STRIDES[0][-1]])),)
