"""A detector as one graph: pixels of any size -> detections, for programs that only run graphs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from detq.errors import ConfigError, GraphError
from detq.graph.detector_graph import INPUT, DetectorGraph
from detq.runtime.letterbox_graph import (
    PlaceInGraph,
    Value,
    number,
    placed_in_graph,
    plan_in_graph,
)
from detq.runtime.postprocess import CLASS_OFFSET_PX, PREDICTION, PostprocessOptions, above

DETECTIONS = "detections"
"""float32 [n, 6]: x1, y1, x2, y2 in pixels of the image, score, class; best first."""


def with_boxes(graph: DetectorGraph, options: PostprocessOptions = PREDICTION) -> ov.Model:
    """A copy whose input is uint8 [1, h, w, 3] BGR of any size, and whose output is
    :data:`DETECTIONS`.

    It letterboxes as the model was trained, and suppresses as ``options`` say. Raises ConfigError
    for a classifier.
    """
    spec = graph.spec
    if not spec.contract.has_places:
        raise ConfigError(
            f"{spec.name}: finds no boxes, and its images are cropped; leave out --embed-preprocess"
        )
    if spec.end_to_end:
        options = replace(options, iou=None, multi_label=True)
    model = graph.model.clone()
    (image,), (result,) = model.get_parameters(), model.get_results()
    pixels = ops.parameter(ov.PartialShape([1, -1, -1, 3]), np.uint8, name=INPUT)
    pixels.set_layout(ov.Layout("NHWC"))
    sides = ops.convert(ops.shape_of(pixels), "i32")
    height, width = (_at(sides, axis) for axis in (1, 2))
    place = plan_in_graph(height, width, spec.size_hw, spec.fit)
    image.output(0).replace(placed_in_graph(pixels, place, spec.size_hw, spec.fit).output(0))
    found = detections_in_graph(result.input_value(0), place, options)
    whole = ov.Model([ops.result(found)], [pixels], spec.name)
    for port, name in ((whole.inputs[0], INPUT), (whole.outputs[0], DETECTIONS)):
        port.get_tensor().set_names({name})
    return whole


def detections_in_graph(
    predictions: Value, place: PlaceInGraph, options: PostprocessOptions
) -> ov.Node:
    """[1, 4 + nc, N] -> float32 [n, 6], as :func:`detq.runtime.postprocess.postprocess`."""
    rows = ops.squeeze(predictions, _axis(0))
    boxes, scores = ops.variadic_split(rows, _axis(0), ops.constant([4, -1])).outputs()
    if options.multi_label and options.iou is not None:
        raise GraphError("a graph reports one class of each place; leave out multi_label")
    best = _one_class_each if options.iou is not None else _all_classes
    locations, class_ids, kept_scores = best(boxes, scores, options)
    kept = ops.gather(_corners(boxes), locations, _axis(0))
    columns = [
        _to_original(kept, place),
        *(ops.unsqueeze(c, _axis(1)) for c in (kept_scores, class_ids)),
    ]
    return ops.concat(columns, 1)


def _one_class_each(
    boxes: Value, scores: Value, options: PostprocessOptions
) -> tuple[Value, Value, Value]:
    """Of each location the best class; the locations that suppression keeps, classes, scores."""
    best, class_ids = ops.topk(scores, ops.constant(np.int64(1)), 0, "max", "none", "i32").outputs()
    best, class_ids = ops.squeeze(best, _axis(0)), ops.squeeze(class_ids, _axis(0))
    classes = ops.convert(class_ids, "f32")
    candidates = ops.select(ops.greater(best, number(options.confidence)), best, number(-1))
    offsets = ops.unsqueeze(ops.multiply(classes, ops.constant(CLASS_OFFSET_PX)), _axis(1))
    kept = ops.non_max_suppression(
        ops.unsqueeze(ops.add(_corners(boxes), offsets), _axis(0)),
        ops.unsqueeze(candidates, ops.constant([0, 1])),
        ops.constant(np.int64(options.max_detections)),
        ops.constant(above(options.iou or 0.0)),
        number(0),
    )
    chosen = ops.gather(kept.output(0), ops.constant(np.int64(2)), _axis(1))  # batch, class, index
    return chosen, _of(classes, chosen), _of(best, chosen)


def _all_classes(
    boxes: Value, scores: Value, options: PostprocessOptions
) -> tuple[Value, Value, Value]:
    """The best locations and classes above the confidence; nothing is suppressed."""
    class_count, location_count = ov.Output.get_shape(scores)
    flat = ops.reshape(ops.transpose(scores, ops.constant([1, 0])), ops.constant([-1]), False)
    most = min(options.max_detections, class_count * location_count)
    sorted_ = ops.topk(flat, ops.constant(np.int64(most)), 0, "max", "value", "i32", stable=True)
    found = ops.convert(ops.greater(sorted_.output(0), number(options.confidence)), "i64")
    count = ops.reduce_sum(found, _axis(0), True)
    kept, places = (
        ops.slice(port, ops.constant([0]), count, ops.constant([1]), ops.constant([0]))
        for port in sorted_.outputs()
    )
    classes = ops.constant(np.int32(class_count))
    return ops.divide(places, classes), ops.convert(ops.floor_mod(places, classes), "f32"), kept


def _corners(boxes: Value) -> ov.Node:
    """[4, N] centre and size -> [N, 4] corners."""
    centre, size = ops.split(boxes, _axis(0), 2).outputs()
    half = ops.multiply(size, number(0.5))
    corners = ops.concat([ops.subtract(centre, half), ops.add(centre, half)], 0)
    return ops.transpose(corners, ops.constant([1, 0]))


def _to_original(boxes: Value, place: PlaceInGraph) -> ov.Node:
    """[n, 4] corners in input pixels -> in pixels of the image, clamped to it."""
    size = _xyxy(place.width, place.height)
    gain = ops.divide(_xyxy(place.resized_width, place.resized_height), size)
    moved = ops.subtract(boxes, _xyxy(place.pad_left, place.pad_top))
    return ops.minimum(ops.relu(ops.divide(moved, gain)), size)


def _xyxy(x: Value, y: Value) -> ov.Node:
    """Two int32 scalars -> float32 [4]."""
    pair = [ops.unsqueeze(value, _axis(0)) for value in (x, y)]
    return ops.convert(ops.concat([*pair, *pair], 0), "f32")


def _of(values: Value, chosen: Value) -> ov.Node:
    return ops.gather(values, chosen, _axis(0))


def _at(vector: Value, index: int) -> ov.Node:
    return ops.gather(vector, ops.constant(np.int64(index)), _axis(0))


def _axis(index: int) -> ov.Node:
    return ops.constant(np.int64(index))
