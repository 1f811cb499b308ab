from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops
from small_graphs import (
    Layers,
    Source,
    detector,
    fingerprint,
    images,
    pyramid,
    relative_error,
    repvgg_like,
    run,
    through,
)

from detq.config import RangesConfig, Recipe
from detq.errors import CalibrationError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import constant_value, find_node, producer, replace_constant_input
from detq.quant.passes.equalize_channels import EqualizeChannels
from detq.quant.quantizer import quantize_graph

IMAGES = images(6)


def _equalized(graph: DetectorGraph, *, into_weights: bool = True) -> ov.Model:
    return through(graph, EqualizeChannels(into_weights=into_weights), given=IMAGES).model


def _divisions(model: ov.Model, name: str) -> list[ov.Node]:
    return [node for node in model.get_ops() if node.get_friendly_name() == f"{name}/equalized"]


def _weight(model: ov.Model, name: str) -> np.ndarray:
    return np.asarray(constant_value(producer(find_node(model, name), 1)))


def _uneven(*, reach: float = 200.0, grouped: bool = False) -> DetectorGraph:
    """Two branches that are joined, one of whose channels reaches far and hardly matters."""
    make = Layers(seed=2)
    image = make.image()
    stem = make.convolution(image, 16, "backbone.stem", stride=2)
    for node in (stem, producer(stem)):
        value = np.array(constant_value(producer(node, 1)))
        value.reshape(16, -1)[3] *= reach
        replace_constant_input(node, 1, value)
    wide = ops.relu(stem)
    wide.set_friendly_name("wide")
    other = ops.relu(make.convolution(image, 8, "backbone.other", stride=2))
    other.set_friendly_name("other")
    joined = ops.concat([other, wide], 1)
    reader = make.convolution(joined, 16, "neck.reader")
    second = make.convolution(joined, 24, "neck.second", groups=24 if grouped else 1)
    for add in (reader, second):
        convolution = producer(add)
        weight = np.array(constant_value(producer(convolution, 1)))
        if weight.ndim == 5:
            weight[8 + 3] /= reach
        else:
            weight[:, 8 + 3] /= reach
        replace_constant_input(convolution, 1, weight)
    deep = ops.relu(ops.concat([reader, second], 1))
    return detector(image, make.convolution(deep, 7, "detect.pred", kernel=1))


@pytest.mark.parametrize("into_weights", [False, True])
@pytest.mark.parametrize(
    "graph", [_uneven(), _uneven(grouped=True), pyramid(), repvgg_like()], ids=str
)
def test_function_is_the_same_in_float_and_the_graph_given_unchanged(
    graph: DetectorGraph, into_weights: bool
) -> None:
    before = fingerprint(graph.model)
    equal = _equalized(graph, into_weights=into_weights)
    assert fingerprint(graph.model) == before
    assert relative_error(run(equal, IMAGES), run(graph.model, IMAGES)) < 1e-5


@pytest.mark.parametrize("grouped", [False, True])
def test_branches_that_meet_are_divided_towards_one_range(grouped: bool) -> None:
    graph = _uneven(grouped=grouped)
    equal = _equalized(graph, into_weights=False)
    peaks = []
    for name in ("wide", "other"):
        (divided,) = _divisions(equal, name)
        factor = constant_value(producer(divided, 1))
        assert factor is not None
        assert factor.min() >= 1  # a grid never gets wider than it was
        peaks.append(factor.max())
    assert max(peaks) > 10


def _leaky(node: ov.Node) -> ov.Node:
    return ops.prelu(node, ops.constant(np.float32([0.1])))


def _leaky_by_channel(node: ov.Node) -> ov.Node:
    return ops.prelu(node, ops.constant(np.linspace(0, 0.5, 16, dtype=np.float32)))


@pytest.mark.parametrize(
    ("before", "function", "kernel", "divided_in"),
    [
        (ops.swish, ops.relu, 3, "weights"),
        (ops.swish, None, 3, "weights"),
        (ops.swish, _leaky, 3, "weights"),
        (ops.swish, _leaky_by_channel, 3, "weights"),
        (ops.relu, ops.relu, 1, "weights"),
        (ops.swish, ops.swish, 1, "quantizer"),
        (ops.swish, ops.hswish, 1, "quantizer"),
        (ops.relu, ops.hswish, 3, "quantizer"),
        (ops.swish, ops.swish, 3, None),
    ],
)
def test_division_is_where_it_costs_little(
    before: Callable[[ov.Node], ov.Node],
    function: Callable[[ov.Node], ov.Node] | None,
    kernel: int,
    divided_in: str | None,
) -> None:
    make = Layers(seed=2)
    image = make.image()
    stem = before(make.convolution(image, 16, "backbone.stem", stride=2))
    uneven = make.convolution(stem, 16, "backbone.uneven", kernel=kernel)
    convolution = producer(uneven)
    scale = np.geomspace(1, 99, 16, dtype=np.float32).reshape(-1, 1, 1, 1)
    weight = np.asarray(constant_value(producer(convolution, 1)))
    replace_constant_input(convolution, 1, weight * scale)
    tensor = uneven if function is None else function(uneven)
    tensor.set_friendly_name("tensor")
    graph = detector(image, make.convolution(tensor, 7, "detect.pred", kernel=1))
    equal = _equalized(graph)
    assert len(_divisions(equal, "tensor")) == (divided_in == "quantizer")
    weights = [_weight(model, "detect.pred") for model in (graph.model, equal)]
    assert np.array_equal(*weights) is (divided_in is None)  # what reads it makes up for it
    assert relative_error(run(equal, IMAGES), run(graph.model, IMAGES)) < 1e-5


@pytest.mark.parametrize(("reach", "is_divided"), [(2, False), (3000, True)])
def test_the_price_is_paid_where_nearly_all_noise_goes(reach: float, is_divided: bool) -> None:
    """Behind a 3x3 kernel that reads a zero point a division costs time on CPUs with AMX."""
    make = Layers(seed=2)
    image = make.image()
    stem = ops.swish(make.convolution(image, 16, "backbone.stem", stride=2))
    uneven = make.convolution(stem, 16, "backbone.uneven")
    convolution = producer(uneven)
    scale = np.ones((16, 1, 1, 1), np.float32)
    scale[3] = reach
    weight = np.asarray(constant_value(producer(convolution, 1)))
    replace_constant_input(convolution, 1, weight * scale)
    tensor = ops.swish(uneven)
    tensor.set_friendly_name("tensor")
    last = make.convolution(tensor, 7, "detect.pred", kernel=1)
    reader = np.array(constant_value(producer(producer(last), 1)))
    reader[:, 3] /= reach
    replace_constant_input(producer(last), 1, reader)
    graph = detector(image, last)
    equal = _equalized(graph)
    assert len(_divisions(equal, "tensor")) == is_divided
    assert relative_error(run(equal, IMAGES), run(graph.model, IMAGES)) < 1e-5


def test_channels_alike_are_left_alone() -> None:
    make = Layers(seed=2)
    image = make.image()
    stem = ops.relu(make.convolution(image, 4, "backbone.stem", stride=2))
    copies = ops.concat([stem, stem], 1)  # read twice by one convolution: nothing to tell apart
    one = ops.relu(make.convolution(copies, 8, "backbone.one", kernel=1))
    first = np.array(constant_value(producer(producer(producer(one)), 1)))
    replace_constant_input(producer(producer(one)), 1, np.repeat(first[:1], 8, axis=0))
    bias = producer(one)
    index = 1 if constant_value(producer(bias, 1)) is not None else 0
    replace_constant_input(bias, index, np.zeros((1, 8, 1, 1), np.float32))
    graph = detector(image, make.convolution(one, 7, "detect.pred", kernel=1))
    weights = [_weight(model, "detect.pred") for model in (graph.model, _equalized(graph))]
    np.testing.assert_array_equal(*weights)


def test_tensor_that_arithmetic_reads_too_is_left_alone() -> None:
    make = Layers(seed=2)
    image = make.image()
    stem = ops.relu(make.convolution(image, 16, "backbone.stem", stride=2))
    scale = np.geomspace(1, 99, 16, dtype=np.float32).reshape(1, 16, 1, 1)
    scaled = ops.relu(ops.multiply(stem, ops.constant(scale)))
    scaled.set_friendly_name("scaled")
    branch = make.convolution(scaled, 16, "neck.branch")
    graph = detector(
        image, make.convolution(ops.relu(ops.add(branch, scaled)), 7, "detect.pred", kernel=1)
    )
    assert not _divisions(_equalized(graph), "scaled")


def test_int8_error_falls_where_channels_differ() -> None:
    graph = _uneven()
    exact = run(graph.model, IMAGES)
    errors = []
    for equalized in (False, True):
        ranges = RangesConfig(backbone="minmax", neck="minmax", head="minmax")
        recipe = Recipe(name="test", equalize_channels=equalized, ranges=ranges)
        found = run(quantize_graph(graph, recipe, Source(IMAGES)).graph.model, IMAGES)
        errors.append(float(np.square(found - exact).mean()))
    assert errors[1] < 0.5 * errors[0]


def test_without_images_it_says_so() -> None:
    with pytest.raises(CalibrationError, match="observing channels saw no data"):
        through(_uneven(), EqualizeChannels(), given=[])
