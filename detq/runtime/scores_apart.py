"""Class scores as the network's last convolutions leave them: all classes of a place together.

The contract's output [B, 4 + nc, N] has all places of a class together. To bring scores there takes
a transposition and one to three copies of them, 5% of YOLOv6-N's INT8 latency with 80 classes
(docs/performance.md, "Rewriting the float graph"). Post-processing needs none of it, so a detector
is compiled without.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from math import prod

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from detq.graph.surgery import constant_value, producer
from detq.runtime.postprocess import Floats, Predictions

LEAST_CLASSES = 32
"""With fewer of them there is little to move, and looking through short rows costs more."""
_BEHIND_A_CONVOLUTION = frozenset({"Add", "Multiply", "Sigmoid"})


def with_scores_apart(model: ov.Model) -> ov.Model:
    """A copy of a detector graph with outputs boxes [B, 4, N] and scores [B, N, nc]; a plain copy
    where scores cannot be had so without moving them.

    The numbers are the same. ``model`` is float32 [B, 4 + nc, N] as :mod:`detq.contract` says.
    """
    copy = model.clone()
    (result,) = copy.get_results()
    columns = result.get_input_shape(0)[1]
    if columns < 4 + LEAST_CLASSES:
        return copy
    try:
        scores = _Places(by_place=True).of(result.input_value(0), 4, columns)
        boxes = _Places(by_place=False).of(result.input_value(0), 0, 4)
    except _MovesError:
        return copy
    return ov.Model([ops.result(boxes), ops.result(scores)], copy.get_parameters(), "scores_apart")


def predictions_of(request: ov.InferRequest) -> Predictions:
    """What a finished request of a detector found, of a graph with scores apart or the contract's;
    the arrays are overwritten when it starts again.
    """
    first, *scores = (tensor.data[0] for tensor in request.output_tensors)
    return Predictions(first, *scores) if scores else Predictions.of(first)


def table_of(request: ov.InferRequest) -> Floats:
    """The same as the contract's output, [1, 4 + nc, N]."""
    first, *scores = (tensor.data for tensor in request.output_tensors)
    return np.concatenate([first, *(each.transpose(0, 2, 1) for each in scores)], 1)


class _MovesError(Exception):
    """Values would have to be moved in memory."""


class _Places:
    """Rows of [B, C, N] found further up in the graph, before they were joined with others.

    With ``by_place`` they come as [B, N, rows], which convolutions leave in memory and many a
    network's own output is.
    """

    def __init__(self, *, by_place: bool) -> None:
        self._by_place = by_place

    def of(self, port: ov.Output, start: int, stop: int) -> ov.Output:
        """Rows ``start`` to ``stop``. Raises _MovesError."""
        ways = {
            "VariadicSplit": self._of_split,
            "Concat": self._of_concat,
            "Transpose": self._of_transpose,
            "Reshape": self._of_flattened,
            "Sigmoid": self._of_sigmoid,
            "Multiply": self._of_product,
            "Constant": self._of_constant,
        }
        try:
            way = ways.get(port.get_node().get_type_name(), self._nowhere)
            return way(port, start, stop)
        except _MovesError:
            if self._by_place or (start, stop) != (0, port.get_shape()[1]):
                raise
            return port

    def _nowhere(self, port: ov.Output, start: int, stop: int) -> ov.Output:
        raise _MovesError

    def _of_split(self, port: ov.Output, start: int, stop: int) -> ov.Output:
        node = port.get_node()
        if _constant(producer(node, 1)) not in ([1], [-2]):
            raise _MovesError
        before = sum(node.get_output_shape(index)[1] for index in range(port.get_index()))
        return self.of(node.input_value(0), before + start, before + stop)

    def _of_concat(self, port: ov.Output, start: int, stop: int) -> ov.Output:
        node = port.get_node()
        if _axis(node) == 2:  # levels
            levels = [self.of(value, start, stop) for value in node.input_values()]
            return ops.concat(levels, 1 if self._by_place else 2).output(0)
        parts = [self.of(*part) for part in _parts(node, start, stop)]
        if len(parts) == 1:
            return parts[0]
        if self._by_place:
            raise _MovesError
        return ops.concat(parts, 1).output(0)

    def _of_transpose(self, port: ov.Output, start: int, stop: int) -> ov.Output:
        """Of [B, N, C], perhaps itself transposed to be so."""
        rows = _untransposed(port)
        if rows.get_node().get_type_name() == "Transpose":
            return self.of(_untransposed(rows), start, stop)
        if (start, stop) != (0, rows.get_shape()[2]):
            rows = ops.slice(rows, [start], [stop], [1], [2]).output(0)
        return rows if self._by_place else ops.transpose(rows, [0, 2, 1]).output(0)

    def _of_flattened(self, port: ov.Output, start: int, stop: int) -> ov.Output:
        """Of a map [B, C, H, W], perhaps joined from several."""
        level, wanted = port.get_node().input_value(0), stop - start
        batch, channels, *sides = level.get_shape()
        if len(sides) != 2 or [*port.get_shape()] != [batch, channels, prod(sides)]:
            raise _MovesError
        if level.get_node().get_type_name() == "Concat":
            level, start, stop = next(_parts(level.get_node(), start, stop))
        if (start, stop) != (0, level.get_shape()[1]) or stop != wanted:
            raise _MovesError
        if not self._by_place:
            return ops.reshape(level, [0, stop, -1], True).output(0)
        above = level.get_node()
        while above.get_type_name() in _BEHIND_A_CONVOLUTION:
            above = producer(above)
        if above.get_type_name() != "Convolution":
            raise _MovesError
        return ops.reshape(ops.transpose(level, [0, 2, 3, 1]), [0, -1, stop], True).output(0)

    def _of_sigmoid(self, port: ov.Output, start: int, stop: int) -> ov.Output:
        node = port.get_node()
        scores = ops.sigmoid(self.of(node.input_value(0), start, stop))
        scores.set_friendly_name(node.get_friendly_name())  # --layers shows it
        return scores.output(0)

    def _of_product(self, port: ov.Output, start: int, stop: int) -> ov.Output:
        """One of the factors may be a row for all classes, objectness."""
        factors = []
        for value in port.get_node().input_values():
            if len(value.get_shape()) != 3:
                raise _MovesError
            one_for_all = value.get_shape()[1] == 1
            factors.append(self.of(value, *((0, 1) if one_for_all else (start, stop))))
        return ops.multiply(*factors).output(0)

    def _of_constant(self, port: ov.Output, start: int, stop: int) -> ov.Output:
        rows = np.asarray(port.get_node().get_data())[:, start:stop]
        return ops.constant(rows.transpose(0, 2, 1) if self._by_place else rows).output(0)


def _parts(concat: ov.Node, start: int, stop: int) -> Iterator[tuple[ov.Output, int, int]]:
    """Which inputs rows ``start`` to ``stop`` come from, and which of theirs they are."""
    if _axis(concat) != 1:
        raise _MovesError
    values = concat.input_values()
    ends = [0, *accumulate(value.get_shape()[1] for value in values)]
    for value, (first, end) in zip(values, pairwise(ends), strict=True):
        if first < stop and start < end:
            yield value, max(start - first, 0), min(stop, end) - first


def _axis(concat: ov.Node) -> int:
    axis: int = concat.get_attributes()["axis"]
    return axis % len(concat.get_output_shape(0))


def _untransposed(port: ov.Output) -> ov.Output:
    node = port.get_node()
    if _constant(producer(node, 1)) != [0, 2, 1]:
        raise _MovesError
    return node.input_value(0)


def _constant(node: ov.Node) -> list[int]:
    value = constant_value(node)
    if value is None:
        raise _MovesError
    return [int(entry) for entry in value.reshape(-1)]
