from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops
from small_graphs import Layers, Source, detector, images, pyramid, repvgg_like, run, stretched

from detq.api import load_recipe
from detq.config import RangesConfig, Recipe, WeightsConfig
from detq.errors import CalibrationError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import (
    CONVOLUTIONS,
    bypass,
    constant_value,
    consumers,
    find_node,
    nodes_of_type,
    producer,
    replace_constant_input,
)
from detq.numerics.output_error import output_error
from detq.quant.calibration import (
    activation_nodes,
    activation_quantizers,
    choose_ranges,
    write_ranges,
)
from detq.quant.cost import CostModel
from detq.quant.feedback import round_to_nearest
from detq.quant.observation import observe
from detq.quant.placement import (
    drop_idle_quantizers,
    leave_in_float,
    place_quantizers,
    readers,
    return_to_float,
)
from detq.quant.ptq import quantize_graph
from detq.quant.search import FLOAT, PROPOSALS, SearchResult, quantizer_groups, search_ranges
from detq.quant.split import split_graph
from detq.records import ReparamConvolution

IMAGES = images(6)
SEARCH = RangesConfig(backbone="search", neck="search", head="search")
RECIPE = Recipe(name="test", ranges=SEARCH)


def _tailed(reach: float = 300.0) -> DetectorGraph:
    """A tensor in which one channel, which hardly matters, reaches far beyond the others."""
    make = Layers(seed=4)
    image = make.image()
    stem = ops.relu(make.convolution(image, 16, "backbone.stem", stride=2))
    wide = ops.relu(stretched(stem, 0, reach))
    reader = make.convolution(wide, 16, "backbone.reader", kernel=1)
    weight = np.array(constant_value(producer(producer(reader), 1)))
    weight[:, 0] /= reach**1.5
    replace_constant_input(producer(reader), 1, weight)
    deep = ops.relu(make.convolution(ops.relu(reader), 48, "neck.deep"))
    return detector(image, make.convolution(deep, 7, "detect.pred", kernel=1))


@dataclass(frozen=True)
class Searched:
    placed: ov.Model
    result: SearchResult


def _search(graph: DetectorGraph, *, budget: float = 0.0) -> Searched:
    placed = place_quantizers(graph, RECIPE, IMAGES[:1])
    drop_idle_quantizers(placed)
    round_to_nearest(placed)
    quantizers = activation_quantizers(placed)
    statistics = observe(placed, quantizers, IMAGES, bins=2048)
    result = search_ranges(
        placed,
        graph.model,
        quantizers,
        statistics,
        SEARCH,
        IMAGES[:4],
        symmetric=False,
        budget=budget,
        progress=lambda done, total: None,
    )
    return Searched(placed, result)


@pytest.mark.parametrize("build", [repvgg_like, pyramid, _tailed])
def test_search_is_at_least_as_good_as_the_best_rule(build: object) -> None:
    searched = _search(build())  # type: ignore[operator]
    assert searched.result.error <= searched.result.start_error
    assert searched.result.start in PROPOSALS
    names = {quantizer.name for quantizer in activation_quantizers(searched.placed)}
    assert set(searched.result.ranges) == set(searched.result.methods) == names


@pytest.mark.parametrize(("build", "budget"), [(pyramid, 0.0), (_tailed, 0.0), (_tailed, 1.0)])
def test_error_of_the_trial_is_that_of_the_graph_with_these_ranges(
    build: object, budget: float
) -> None:
    """Recomputed with FakeQuantize nodes on activations, those of rounded weights changing nothing.

    In the loose budget's case some tensors and the weights that read them are in float.
    """
    graph = build()  # type: ignore[operator]
    searched = _search(graph, budget=budget)
    model = searched.placed.clone()
    write_ranges(model, searched.result.ranges)
    return_to_float(model, graph.model, searched.result.in_float)
    for node in nodes_of_type(model, "FakeQuantize"):
        if constant_value(producer(node)) is not None:
            bypass(node)
    pairs = [(run(graph.model, [image]), run(model, [image])) for image in IMAGES[:4]]
    errors = [output_error(exact, found) for exact, found in pairs]
    assert searched.result.error == pytest.approx(float(np.mean(errors)), rel=0.05)


def test_quantizers_that_meet_keep_one_grid() -> None:
    searched = _search(pyramid())
    groups: dict[str, set[tuple[float, float]]] = {}
    for quantizer in activation_quantizers(searched.placed):
        (found, *_) = searched.result.ranges[quantizer.name]
        if quantizer.channel_axis is None:
            groups.setdefault(quantizer.group, set()).add((found.low, found.high))
    assert all(len(grids) == 1 for grids in groups.values())


def test_tensor_that_no_grid_serves_is_left_in_float_within_the_budget() -> None:
    tight, loose = _search(_tailed()), _search(_tailed(), budget=1.0)
    assert tight.result.in_float == ()
    assert len(loose.result.in_float) >= 1
    assert loose.result.error < tight.result.error
    assert 0 < loose.result.cost <= 1.0
    for name in loose.result.in_float:
        assert loose.result.methods[name] == FLOAT
        assert name not in loose.result.ranges


def _behind_silu(*, kernel: int) -> DetectorGraph:
    make = Layers(seed=4)
    image = make.image()
    stem = make.convolution(image, 16, "backbone.stem", stride=2)
    swish = ops.swish(stem)
    swish.set_friendly_name("swish")
    deep = ops.relu(make.convolution(swish, 64, "neck.deep", kernel=kernel))
    return detector(image, make.convolution(deep, 7, "detect.pred", kernel=1))


@pytest.mark.parametrize(("kernel", "stays"), [(1, True), (3, False)])
def test_zero_point_that_is_not_in_biases_goes_if_it_gains_too_little(
    kernel: int, stays: bool
) -> None:
    searched = _search(_behind_silu(kernel=kernel))
    (name,) = (name for name in searched.result.ranges if name.startswith("swish"))
    (grid,) = searched.result.ranges[name]
    assert grid.low < 0
    assert grid.needs_zero_point is stays
    assert searched.result.methods[name].endswith("signed") is not stays


@pytest.mark.parametrize("kernel", [1, 3])
def test_zero_points_given_up_add_no_more_error_than_they_cost(kernel: int) -> None:
    searched = _search(_behind_silu(kernel=kernel))
    groups = quantizer_groups(searched.placed, activation_quantizers(searched.placed))
    methods = searched.result.methods
    costs = [g.zero_point_cost for g in groups if methods[g.members[0]].endswith("signed")]
    assert len(costs) == (kernel > 1)
    assert searched.result.error <= searched.result.start_error * np.prod([1 + c for c in costs])


def test_zero_point_that_gains_more_than_it_costs_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CostModel, "zero_point", lambda self, nodes: 1e-9 * len(list(nodes)))
    searched = _search(_behind_silu(kernel=3))
    (name,) = (name for name in searched.result.ranges if name.startswith("swish"))
    assert searched.result.ranges[name][0].needs_zero_point


def test_without_images_it_says_so() -> None:
    placed = place_quantizers(pyramid(), RECIPE, IMAGES[:1])
    quantizers = activation_quantizers(placed)
    statistics = observe(placed, quantizers, IMAGES, bins=2048)
    with pytest.raises(CalibrationError, match="the search for ranges saw no data"):
        search_ranges(
            placed,
            pyramid().model,
            quantizers,
            statistics,
            SEARCH,
            [],
            symmetric=False,
            budget=0,
            progress=lambda done, total: None,
        )


def test_default_recipe_on_a_small_network() -> None:
    graph, heard = repvgg_like(), []
    result = quantize_graph(
        graph,
        load_recipe("measured"),
        Source(IMAGES),
        lambda stage, done, total: heard.append((stage, done, total)),
    )
    assert result.search is not None
    assert len(result.split_choices) == 4  # backbone and neck
    assert {stage for stage, _, _ in heard} == {"searching ranges"}
    assert heard[-1][1] == heard[-1][2]
    again = quantize_graph(graph, load_recipe("measured"), Source(IMAGES))
    assert again.decisions == result.decisions


# Quantizers taken out


def test_quantizers_that_only_arithmetic_reads_go() -> None:
    placed = place_quantizers(pyramid(), RECIPE, IMAGES[:1])
    before = {node.get_friendly_name() for node in activation_nodes(placed)}
    arithmetic = {
        node.get_friendly_name() for node in activation_nodes(placed) if not readers(node)
    }
    count = drop_idle_quantizers(placed)
    after = {node.get_friendly_name() for node in activation_nodes(placed)}
    assert before - after == arithmetic
    assert count == len(arithmetic)


@pytest.mark.parametrize(
    ("activation", "residual", "kept"),
    [("relu", False, True), ("sigmoid", False, True), ("relu", True, False)],
)
def test_fine_branch_keeps_its_quantizer_if_the_sum_is_rounded_next(
    activation: str, residual: bool, kept: bool
) -> None:
    """A residual is added in float: a fine branch in INT8 would only be converted for the sum."""
    make = Layers(seed=1)
    image = make.image()
    stem = ops.relu(make.convolution(image, 8, "backbone.stem", stride=2))
    inner = make.convolution(stem, 8, "backbone.inner")
    inner = ops.relu(inner) if activation == "relu" else ops.multiply(inner, ops.sigmoid(inner))
    deep = ops.add(inner, stem) if residual else inner
    last = make.convolution(deep, 7, "detect.pred", kernel=1)
    reparameterized = [ReparamConvolution("backbone.inner", "backbone")]
    split = split_graph(detector(image, last, reparameterized), WeightsConfig(split="cfws"))
    placed = place_quantizers(split.graph, RECIPE, IMAGES[:1])
    drop_idle_quantizers(placed)
    fine = consumers(find_node(placed, "backbone.inner"))[0]
    assert (fine.get_type_name() == "FakeQuantize") == kept


def test_layer_left_in_float_has_float_weights_too() -> None:
    placed = place_quantizers(_tailed(), RECIPE, IMAGES[:1])
    reader = next(
        node
        for node in nodes_of_type(placed, *CONVOLUTIONS)
        if node.get_friendly_name() == "backbone.reader"
    )
    quantizer = producer(reader)
    assert quantizer.get_type_name() == "FakeQuantize"
    assert leave_in_float(placed, [quantizer.get_friendly_name()]) == ["backbone.reader"]
    assert producer(reader).get_type_name() != "FakeQuantize"
    assert producer(reader, 1).get_type_name() == "Constant"


def _shuffled() -> DetectorGraph:
    make = Layers(seed=1)
    image = make.image()
    one = ops.relu(make.convolution(image, 8, "backbone.one", stride=2))
    two = ops.relu(make.convolution(image, 8, "backbone.two", stride=2))
    mixed = ops.shuffle_channels(ops.concat([one, two], 1), 1, 2)
    reader = ops.relu(make.convolution(mixed, 8, "neck.reader", kernel=1))
    return detector(image, make.convolution(reader, 7, "detect.pred", kernel=1))


def test_tensors_that_are_shuffled_together_share_a_grid_and_their_reader() -> None:
    placed = place_quantizers(_shuffled(), RECIPE, IMAGES[:1])
    quantizers = activation_quantizers(placed)
    groups = [g for g in quantizer_groups(placed, quantizers) if len(g.members) == 2]
    assert len(groups) == 1
    assert groups[0].mac_share > 0


def test_convolution_with_one_half_in_float_has_float_weights_too() -> None:
    graph = _shuffled()
    placed = place_quantizers(graph, RECIPE, IMAGES[:1])
    (group,) = [
        group
        for group in quantizer_groups(placed, activation_quantizers(placed))
        if len(group.members) == 2
    ]
    round_to_nearest(placed)
    return_to_float(placed, graph.model, group.members[:1])
    reader = find_node(placed, "neck.reader")
    weight = constant_value(producer(reader, 1))
    assert producer(reader, 1).get_type_name() == "Constant"
    assert weight is not None
    np.testing.assert_array_equal(
        weight, constant_value(producer(find_node(graph.model, "neck.reader"), 1))
    )
    others = {"backbone.one", "backbone.two", "detect.pred"}
    for name in others:
        assert producer(find_node(placed, name), 1).get_type_name() == "FakeQuantize"


def test_groups_know_who_reads_them() -> None:
    placed = place_quantizers(pyramid(), RECIPE, IMAGES[:1])
    quantizers = activation_quantizers(placed)
    statistics = observe(placed, quantizers, IMAGES, bins=2048)
    assert choose_ranges(quantizers, statistics, SEARCH.all_by("mse"), symmetric=False)
    groups = quantizer_groups(placed, quantizers)
    assert sorted(name for group in groups for name in group.members) == sorted(
        quantizer.name for quantizer in quantizers
    )
    assert 0 < max(group.mac_share for group in groups) <= 1
    assert all(group.cost >= 0 for group in groups)


def test_image_in_float_costs_its_conversion_too(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = place_quantizers(pyramid(), RECIPE, IMAGES[:1])
    quantizers = activation_quantizers(placed)
    first = producer(activation_nodes(placed)[0])
    assert first.get_type_name() == "Parameter"
    before = quantizer_groups(placed, quantizers)
    expected = CostModel.of(placed).float_image(first)
    assert expected > 0
    monkeypatch.setattr(CostModel, "float_image", lambda self, image: 0.0)
    extra = [
        group.cost - other.cost
        for group, other in zip(before, quantizer_groups(placed, quantizers), strict=True)
    ]
    assert extra == pytest.approx([expected] + [0.0] * (len(extra) - 1))
