from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import openvino as ov
import pytest
from small_graphs import (
    Layers,
    detector,
    fingerprint,
    images,
    relative_error,
    repvgg_like,
    run,
    through,
)

from detq.config import WeightsConfig
from detq.errors import GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import (
    constant_value,
    downstream,
    find_node,
    nodes_of_type,
    producer,
    producers,
)
from detq.numerics.cfws import quantize_weight
from detq.quant.network import Network
from detq.quant.passes.split_weights import SplitWeights
from detq.records import ReparamConvolution

ALL_PARTS = ("backbone", "neck", "head")
splits = pytest.mark.parametrize("split", ["cfws", "residual"])


def _split(graph: DetectorGraph, config: WeightsConfig, *, limit_pairs: bool = False) -> Network:
    return through(graph, SplitWeights(config, limit_pairs), given=[])


def _weight(model: ov.Model, name: str) -> np.ndarray:
    weight = constant_value(producer(find_node(model, name), 1))
    assert weight is not None
    return weight


@splits
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("seed", range(3), ids="seed {}".format)
def test_split_is_function_preserving(split: str, granularity: str, seed: int) -> None:
    graph = repvgg_like(seed=seed)
    config = WeightsConfig(split=split, parts=ALL_PARTS, granularity=granularity)  # type: ignore[arg-type]
    result = _split(graph, config)
    assert len(result.splits) == 5
    inputs = images(2)
    assert relative_error(run(result.model, inputs), run(graph.model, inputs)) < 1e-5


@splits
def test_split_of_a_real_network_is_function_preserving(
    golden_graph: Callable[[str], DetectorGraph], split: str
) -> None:
    graph = golden_graph("yolov6n")
    result = _split(graph, WeightsConfig(split=split))  # type: ignore[arg-type]
    assert len(result.splits) == 35
    before, after = (len(nodes_of_type(g.model, "Convolution")) for g in (graph, result))
    assert after == before + 35
    inputs = images(1, size=(128, 192))
    assert relative_error(run(result.model, inputs), run(graph.model, inputs)) < 1e-5


@splits
def test_given_graph_is_untouched_and_nothing_is_shared(split: str) -> None:
    graph = repvgg_like()
    before = fingerprint(graph.model)
    result = _split(graph, WeightsConfig(split=split))  # type: ignore[arg-type]
    assert fingerprint(graph.model) == before
    for node in nodes_of_type(result.model, "Convolution", "GroupConvolution"):
        node.set_friendly_name("renamed")
    assert fingerprint(graph.model) == before


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("backbone",), ("backbone.stem", "backbone.bare", "backbone.grouped")),
        (("neck",), ("neck.down",)),
        (("neck", "head"), ("neck.down", "detect.stem")),
        ((), ()),
    ],
    ids=str,
)
def test_only_the_named_parts_are_split(parts: tuple[str, ...], expected: tuple[str, ...]) -> None:
    graph = repvgg_like()
    result = _split(graph, WeightsConfig(split="cfws", parts=parts))  # type: ignore[arg-type]
    assert {split.fine for split in result.splits} == set(expected)
    convolutions = [
        len(nodes_of_type(model, "Convolution", "GroupConvolution"))
        for model in (graph.model, result.model)
    ]
    assert convolutions[1] == convolutions[0] + len(expected)
    for split in result.splits:
        total, coarse = find_node(result.model, split.total), find_node(result.model, split.coarse)
        assert {split.fine} < {node.get_friendly_name() for node in producers(total)}
        assert any(node.get_name() == total.get_name() for node in downstream([coarse]))


@pytest.mark.parametrize("name", ["backbone.stem", "backbone.grouped", "neck.down"])
def test_coarse_branch_is_a_point_convolution_on_the_integer_grid(name: str) -> None:
    graph = repvgg_like()
    result = _split(graph, WeightsConfig(split="cfws"))
    whole = _weight(graph.model, name)
    fine = _weight(result.model, name)
    (split,) = (split for split in result.splits if split.fine == name)
    coarse = _weight(result.model, split.coarse)
    assert coarse.shape == (*whole.shape[:-2], 1, 1)
    centre = whole[..., 1:2, 1:2].reshape(-1, *coarse.shape[-3:])
    np.testing.assert_array_equal(coarse.reshape(centre.shape), quantize_weight(centre))
    restored = fine.copy()
    restored[..., 1:2, 1:2] += coarse
    np.testing.assert_allclose(restored, whole, rtol=1e-6)


def test_missing_convolution_is_an_error_that_names_it() -> None:
    graph = repvgg_like()
    spec = replace(graph.spec, reparameterized=(ReparamConvolution("backbone.none", "backbone"),))
    with pytest.raises(GraphError, match=r"no operation is named 'backbone\.none'"):
        _split(DetectorGraph(graph.model, spec), WeightsConfig(split="cfws"))


def _one_convolution(**options: int) -> DetectorGraph:
    make = Layers()
    image = make.image()
    features = make.convolution(image, 7, "backbone.conv", **options)  # type: ignore[arg-type]
    return detector(image, features, [ReparamConvolution("backbone.conv", "backbone")])


@pytest.mark.parametrize(
    "options",
    [{"padding": 0}, {"padding": 2}, {"kernel": 2, "padding": 1}, {"dilation": 2, "padding": 1}],
    ids=str,
)
def test_centre_tap_off_the_output_pixel_is_an_error(options: dict[str, int]) -> None:
    with pytest.raises(GraphError, match=r"backbone\.conv: .*centre tap is off"):
        _split(_one_convolution(**options), WeightsConfig(split="cfws"))


@pytest.mark.parametrize(
    "options", [{"kernel": 5}, {"kernel": 1}, {"dilation": 2}, {"stride": 2}], ids=str
)
def test_every_same_convolution_can_be_split(options: dict[str, int]) -> None:
    graph = _one_convolution(**options)
    result = _split(graph, WeightsConfig(split="cfws"))
    inputs = images(1)
    assert relative_error(run(result.model, inputs), run(graph.model, inputs)) < 1e-5


def test_weights_that_are_computed_are_an_error() -> None:
    graph = _one_convolution()
    convolution = find_node(graph.model, "backbone.conv")
    image = graph.model.inputs[0]
    scale = ov.opset15.reduce_mean(image, np.array([0, 1, 2, 3]), True)
    computed = ov.opset15.multiply(producer(convolution, 1), scale)
    convolution.input(1).replace_source_output(computed.output(0))
    with pytest.raises(GraphError, match="weights are not constant"):
        _split(graph, WeightsConfig(split="cfws"))


@splits
@pytest.mark.parametrize("limit_pairs", [False, True])
def test_coarse_weights_lie_on_the_grid_that_is_reported(split: str, limit_pairs: bool) -> None:
    config = WeightsConfig(split=split, parts=ALL_PARTS)  # type: ignore[arg-type]
    result = _split(repvgg_like(outlier=20), config, limit_pairs=limit_pairs)
    assert result.splits
    for split_convolution in result.splits:
        weight = _weight(result.model, split_convolution.coarse)
        integers = weight.reshape(-1, *weight.shape[-3:]) / split_convolution.coarse_step
        assert np.abs(integers - np.rint(integers)).max() < 1e-3
        assert np.abs(integers).max() > 60  # the grid is used
