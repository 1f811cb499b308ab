"""Scores that stay where convolutions leave them are the contract's scores, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openvino import opset15 as ops

from detq import api
from detq.graph.execute import compile_exact
from detq.runtime.scores_apart import (
    LEAST_CLASSES,
    predictions_of,
    table_of,
    with_scores_apart,
)

Output = ov.Output


def _map(image: ov.Node, channels: int, side: int, seed: int) -> Output:
    """[1, channels, side, side] of a convolution with a bias."""
    stride = 32 // side
    draw = np.random.default_rng(seed)
    weights = draw.normal(size=(channels, 3, stride, stride)).astype(np.float32)
    steps = [stride, stride]
    convolved = ops.convolution(image, ops.constant(weights), steps, [0, 0], [0, 0], [1, 1])
    bias = draw.normal(size=(1, channels, 1, 1)).astype(np.float32)
    return ops.add(convolved, ops.constant(bias)).output(0)


def _flat(level: Output) -> Output:
    return ops.reshape(level, [1, level.get_shape()[1], -1], False).output(0)


def _joined(levels: list[Output]) -> Output:
    return ops.concat([_flat(level) for level in levels], 2).output(0)


def _maps(image: ov.Node, channels: int, seed: int) -> list[Output]:
    return [_map(image, channels, side, seed + side) for side in (8, 4)]


def _each_apart(image: ov.Node, classes: int) -> Output:
    """YOLOv6: boxes of two parts, sigmoid over all levels."""
    regression = _joined(_maps(image, 4, 1))
    near, far = ops.split(regression, np.int64(1), 2).outputs()
    scores = ops.sigmoid(_joined(_maps(image, classes, 2)))
    return ops.concat([ops.subtract(far, near), ops.add(near, far), scores], 1).output(0)


def _objectness(image: ov.Node, classes: int) -> Output:
    """YOLOv6 0.1.0: the product of two scores."""
    scores = ops.sigmoid(_joined(_maps(image, classes, 2)))
    objectness = ops.sigmoid(_joined(_maps(image, 1, 3)))
    boxes = _joined(_maps(image, 4, 1))
    return ops.concat([boxes, ops.multiply(scores, objectness)], 1).output(0)


def _rows_of_joined_maps(image: ov.Node, classes: int) -> Output:
    """YOLOX: one map a level, one table of rows."""
    kinds = [_maps(image, count, seed) for seed, count in enumerate((4, 1, classes))]
    levels = [
        ops.concat([boxes, ops.sigmoid(one), ops.sigmoid(scores)], 1).output(0)
        for boxes, one, scores in zip(*kinds, strict=True)
    ]
    return _from_rows(ops.transpose(_joined(levels), [0, 2, 1]).output(0), classes)


def _rows_of_anchors(image: ov.Node, classes: int) -> Output:
    """YOLOv5: three anchors a cell, last axis first."""
    columns = 5 + classes
    levels = []
    for level in _maps(image, 3 * columns, 4):
        side = level.get_shape()[2]
        shaped = ops.reshape(level, [1, 3, columns, side, side], False)
        last = ops.sigmoid(ops.transpose(shaped, [0, 1, 3, 4, 2]))
        levels.append(ops.reshape(last, [1, -1, columns], False))
    return _from_rows(ops.concat(levels, 1).output(0), classes)


def _ones_for_objectness(image: ov.Node, classes: int) -> Output:
    """YOLOv6-Lite's export."""
    boxes, scores = _joined(_maps(image, 4, 1)), _joined(_maps(image, classes, 2))
    ones = ops.constant(np.ones((1, 1, boxes.get_shape()[2]), np.float32))
    table = ops.concat([boxes, ones, ops.sigmoid(scores)], 1)
    return _from_rows(ops.transpose(table, [0, 2, 1]).output(0), classes)


def _from_rows(rows: Output, classes: int) -> Output:
    """[1, N, 5 + nc] to the contract."""
    table = ops.transpose(rows, [0, 2, 1])
    boxes, one, scores = ops.variadic_split(table, 1, [4, 1, classes]).outputs()
    return ops.concat([boxes, ops.multiply(scores, one)], 1).output(0)


TAILS = (
    _each_apart,
    _objectness,
    _rows_of_joined_maps,
    _rows_of_anchors,
    _ones_for_objectness,
)


def _model(tail: Callable[[ov.Node, int], Output], classes: int) -> ov.Model:
    image = ops.parameter([1, 3, 32, 32], np.float32)
    return ov.Model([ops.result(tail(image, classes))], [image], "tail")


def _run(model: ov.Model, seed: int = 0) -> ov.InferRequest:
    request = compile_exact(model).create_infer_request()
    request.infer([np.random.default_rng(seed).random((1, 3, 32, 32), np.float32)])
    return request


@settings(max_examples=15)
@given(
    st.sampled_from(TAILS),
    st.integers(LEAST_CLASSES, LEAST_CLASSES + 9),
    st.integers(0, 2**32 - 1),
)
def test_scores_apart_are_the_same_numbers(
    tail: Callable[[ov.Node, int], Output], classes: int, seed: int
) -> None:
    model = _model(tail, classes)
    apart = with_scores_apart(model)
    assert [list(port.shape) for port in apart.outputs][1][2] == classes
    expected, found = _run(model, seed), _run(apart, seed)
    table = expected.get_output_tensor(0).data
    np.testing.assert_array_equal(table_of(found), table)
    np.testing.assert_array_equal(predictions_of(found).boxes_cxcywh, table[0, :4])
    np.testing.assert_array_equal(predictions_of(found).scores, table[0, 4:].T)


@pytest.mark.parametrize("tail", TAILS)
def test_few_classes_stay_in_the_table(tail: Callable[[ov.Node, int], Output]) -> None:
    model = _model(tail, LEAST_CLASSES - 1)
    table = with_scores_apart(model)
    assert len(table.outputs) == 1
    np.testing.assert_array_equal(table_of(_run(table)), _run(model).get_output_tensor(0).data)


def _softmax(image: ov.Node, classes: int) -> Output:
    scores = ops.softmax(_joined(_maps(image, classes, 2)), 1)
    return ops.concat([_joined(_maps(image, 4, 1)), scores], 1).output(0)


def _not_from_a_convolution(image: ov.Node, classes: int) -> Output:
    pooled = [
        ops.max_pool(level, [1, 1], [1, 1], [0, 0], [0, 0], [1, 1]).output(0)
        for level in _maps(image, classes, 2)
    ]
    return ops.concat([_joined(_maps(image, 4, 1)), _joined(pooled)], 1).output(0)


def _merged_classes(image: ov.Node, classes: int) -> Output:
    """Scores of two kinds of heads: joined they would be copied."""
    halves = [_joined(_maps(image, count, count)) for count in (classes // 2, -(-classes // 2))]
    return ops.concat([_joined(_maps(image, 4, 1)), *halves], 1).output(0)


def _joined_in_other_ways(image: ov.Node, classes: int) -> Output:
    """Maps stacked one below the other, then flattened; classes of two maps in one table."""
    half = classes // 2
    levels = []
    for side in (8, 4):
        upper, lower = (_map(image, half, side, seed) for seed in (1, 2))
        boxes = ops.concat([_map(image, 4, side, 3)] * 2, 2)
        maps = [boxes, ops.concat([upper, lower], 2), ops.concat([lower, upper], 2)]
        levels.append(_flat(ops.concat(maps, 1).output(0)))
    table = ops.concat(levels, 2)
    boxes, scores = ops.variadic_split(table, 1, [4, -1]).outputs()
    return ops.concat([boxes, ops.sigmoid(scores)], 1).output(0)


@pytest.mark.parametrize(
    "tail", [_softmax, _not_from_a_convolution, _merged_classes, _joined_in_other_ways]
)
def test_what_would_have_to_be_moved_stays(tail: Callable[[ov.Node, int], Output]) -> None:
    model = _model(tail, 80)
    table = with_scores_apart(model)
    assert len(table.outputs) == 1
    np.testing.assert_array_equal(table_of(_run(table)), _run(model).get_output_tensor(0).data)


@pytest.mark.parametrize("name", ["models/nanodet_m.onnx", "models/yolox_nano.onnx"])
def test_real_detectors_have_their_scores_apart(shared: Path, name: str) -> None:
    graph = api.load(shared / name)
    apart = with_scores_apart(graph.model)
    image = np.random.default_rng(0).random((1, 3, *graph.spec.size_hw), np.float32)
    requests = [compile_exact(model).create_infer_request() for model in (graph.model, apart)]
    expected, found = (request.infer([image]) for request in requests)
    assert (len(expected), len(found)) == (1, 2)
    np.testing.assert_array_equal(table_of(requests[1]), expected[0])
