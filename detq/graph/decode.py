"""What a layout leaves to the program behind the network: boxes and scores from its outputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.graph.layouts import DISTANCE_COLUMNS, Layout, Outputs, cell_count
from detq.records import SizeHW

Array = npt.NDArray[np.float32]


def boxes_and_scores(
    values: list[ov.Output], layout: Layout, outputs: Outputs, size_hw: SizeHW, *, activated: bool
) -> tuple[ov.Output, ov.Output]:
    """The outputs of a network -> [1, 4, N] centre and size in input pixels, and [1, nc, N].

    ``activated``: what should be logits has been through a sigmoid already.
    """
    if outputs.form == "queries":
        return _from_queries(values, layout, size_hw, activated=activated)
    if outputs.form == "faces":
        return _from_faces(values, layout, outputs, size_hw, activated=activated)
    if outputs.form == "distributions":
        return _from_distributions(values, outputs, size_hw, activated=activated)
    if outputs.form == "pair":
        boxes, scores = sorted(values, key=lambda value: value.get_shape()[2] != 4)
        if scores.get_shape()[1] == boxes.get_shape()[1]:
            scores = ops.transpose(scores, [0, 2, 1]).output(0)
        boxes = ops.transpose(boxes, [0, 2, 1]).output(0)
    else:
        table = _table(values, outputs, activated=activated)
        rest = table.get_shape()[1] - 4
        lengths = [4, 1, rest - 1] if layout.has_objectness else [4, rest]
        boxes, *factors = ops.variadic_split(table, 1, lengths).outputs()
        scores = factors[-1]
        if layout.has_objectness:
            scores = ops.multiply(scores, factors[0]).output(0)
    if layout.decode != "none":
        boxes = _decoded(boxes, layout, outputs.strides, size_hw)
    return (_centre_size(boxes) if layout.corners else boxes), scores


def _table(values: list[ov.Output], outputs: Outputs, *, activated: bool) -> ov.Output:
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
    table = ops.concat(rows, 2).output(0)
    return table if activated else ops.sigmoid(table).output(0)


def _from_distributions(
    values: list[ov.Output], outputs: Outputs, size_hw: SizeHW, *, activated: bool
) -> tuple[ov.Output, ov.Output]:
    """NanoDet's and PicoDet's outputs (generalized focal loss, arXiv 2006.04388).

    A distance from the cell's centre to each side is the mean of a distribution over 0, 1, …
    strides.
    """
    largest_first = sorted(values, key=lambda value: -value.get_shape()[1])
    scores = ops.concat([v for v in largest_first if v.get_shape()[2] == outputs.width], 1)
    distances = ops.concat([v for v in largest_first if v.get_shape()[2] != outputs.width], 1)
    scores = ops.transpose(scores, [0, 2, 1]).output(0)
    bins = np.arange(DISTANCE_COLUMNS // 4, dtype=np.float32)
    shares = ops.softmax(ops.reshape(distances, [1, -1, 4, len(bins)], False), 3)
    means = ops.reduce_sum(ops.multiply(shares, bins), np.int64(3), False)  # [1, N, 4]
    cells, steps = cell_grid(size_hw, outputs.strides, 1)
    near, far = ops.split(ops.multiply(ops.transpose(means, [0, 2, 1]), steps), 1, 2).outputs()
    middle = ((cells + np.float32(0.5)) * steps).astype(np.float32)
    corners = ops.concat([ops.subtract(middle, near), ops.add(middle, far)], 1).output(0)
    return _centre_size(corners), (scores if activated else ops.sigmoid(scores).output(0))


def _from_queries(
    values: list[ov.Output], layout: Layout, size_hw: SizeHW, *, activated: bool
) -> tuple[ov.Output, ov.Output]:
    """DETR's outputs (arXiv 2005.12872): centre and size in shares of the image; class scores."""
    boxes, scores = (ops.transpose(value, [0, 2, 1]).output(0) for value in values)
    if not activated:
        scores = (ops.softmax(scores, 1) if layout.softmax else ops.sigmoid(scores)).output(0)
    sides = np.array(size_hw[::-1] * 2, np.float32).reshape(1, 4, 1)
    return ops.multiply(boxes, sides).output(0), scores


def _from_faces(
    values: list[ov.Output],
    layout: Layout,
    outputs: Outputs,
    size_hw: SizeHW,
    *,
    activated: bool,
) -> tuple[ov.Output, ov.Output]:
    """What SCRFD (arXiv 2105.04714) and YuNet (OpenCV's ``FaceDetectorYN``) give for each level.

    Both count from the upper left corner of the cell, in strides: distances to the four sides, or
    centre and logarithm of the size. YuNet's score is the geometric mean of two. The predictions of
    a cell follow each other.
    """
    boxes, scores = [], []
    for stride in outputs.strides:
        height, width = (-(-side // stride) for side in size_hw)
        rows = outputs.per_cell * height * width
        own = [value for value in values if rows in list(value.get_shape())[:-1]]
        shaped = {
            columns: [
                ops.reshape(value, [1, -1, outputs.per_cell, columns], False)
                for value in own
                if value.get_shape()[-1] == columns
            ]
            for columns in (1, 4)
        }
        sure = [each if activated else ops.sigmoid(each) for each in shaped[1]]
        score = sure[0] if len(sure) == 1 else ops.sqrt(ops.multiply(sure[0], sure[1]))
        y, x = np.mgrid[:height, :width]
        cells = np.stack((x, y), -1).reshape(1, -1, 1, 2).astype(np.float32)
        first, second = ops.split(shaped[4][0], 3, 2).outputs()
        if layout.decode == "exponential":
            parts = [ops.add(first, cells), ops.exp(second)]
        else:
            low, high = ops.subtract(cells, first), ops.add(cells, second)
            parts = [ops.multiply(ops.add(low, high), np.float32(0.5)), ops.subtract(high, low)]
        box = ops.multiply(ops.concat(parts, 3), np.float32(stride))
        boxes.append(ops.reshape(box, [1, -1, 4], False))
        scores.append(ops.reshape(score, [1, -1, 1], False))
    joined = [ops.transpose(ops.concat(each, 1), [0, 2, 1]) for each in (boxes, scores)]
    return joined[0].output(0), joined[1].output(0)


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
