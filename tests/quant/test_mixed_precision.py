"""Fallback to float, then zero points given up, both judged by the trial network."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openvino import opset15 as ops
from small_graphs import (
    Layers,
    Source,
    detector,
    images,
    limits,
    pyramid,
    repvgg_like,
    run,
    stretched,
    through,
)

from detq.api import load_recipe
from detq.config import RangeMethod, RangesConfig
from detq.errors import CalibrationError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.layers import add_to_biases, quantized_layers
from detq.graph.surgery import (
    bypass,
    constant_value,
    producer,
    replace_constant_input,
)
from detq.numerics.output_error import output_error
from detq.quant.cost import CostModel
from detq.quant.fallback import fall_back, quantizer_groups
from detq.quant.network import FLOAT, Network
from detq.quant.passes.choose_ranges import ChooseRanges
from detq.quant.passes.correct_biases import MeasureBiasErrors
from detq.quant.passes.fall_back_to_float import FallBackToFloat
from detq.quant.passes.give_up_zero_points import GiveUpZeroPoints
from detq.quant.passes.place_quantizers import PlaceQuantizers
from detq.quant.passes.prune_quantizers import PruneQuantizers
from detq.quant.passes.round_weights import RoundWeights
from detq.quant.passes.try_rules import TryRules
from detq.quant.quantizer import quantize_graph
from detq.quant.trial import RANKING_IMAGES, TrialNetwork
from detq.records import Part

IMAGES = images(6)
START = (
    PlaceQuantizers(),
    PruneQuantizers(),
    RoundWeights("nearest"),
    ChooseRanges(RangesConfig(backbone="mse", neck="mse", head="mse")),
    MeasureBiasErrors(),
)


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


def _mixed(graph: DetectorGraph, *, budget: float = 0.0) -> Network:
    """Judged on four images."""
    start = through(graph, *START, given=IMAGES)
    return through(start, FallBackToFloat(budget), GiveUpZeroPoints(), given=IMAGES[:4])


def _output_error(network: Network) -> float:
    """What the model as it stands does to the output, its biases corrected as in the trial."""
    model = network.model.clone()
    add_to_biases(model, network.bias_shifts)
    for layer in quantized_layers(model):
        assert layer.quantizer is not None
        bypass(layer.quantizer)  # its weights are rounded already
    pairs = [(run(network.float_model, [image]), run(model, [image])) for image in IMAGES[:4]]
    return float(np.mean([output_error(exact, found) for exact, found in pairs]))


@pytest.mark.parametrize("build", [repvgg_like, pyramid, _tailed])
def test_fallback_adds_no_error_and_every_other_tensor_keeps_its_range(build: object) -> None:
    found = _mixed(build())  # type: ignore[operator]
    assert found.mixed is not None
    assert found.mixed.error <= found.mixed.int8_error
    assert set(found.ranges) == {quantizer.name for quantizer in found.quantizers}


@pytest.mark.parametrize(("build", "budget"), [(pyramid, 0.0), (_tailed, 0.0), (_tailed, 1.0)])
def test_error_of_the_trial_is_that_of_the_network_with_these_ranges(
    build: object, budget: float
) -> None:
    """In the loose budget's case some tensors and the weights that read them are in float."""
    found = _mixed(build(), budget=budget)  # type: ignore[operator]
    assert found.mixed is not None
    assert found.mixed.error == pytest.approx(_output_error(found), rel=0.05)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 50), data=st.data())
def test_what_is_ranked_is_what_is_applied(seed: int, data: st.DataObject) -> None:
    """A tensor's gain, and the error without its grid, are those of the network it falls back in.

    With rounded weights in place of exact ones the order would be another.
    """
    start = through(repvgg_like(seed=seed), *START, given=IMAGES)
    trial = TrialNetwork(start, IMAGES[:4])
    groups = quantizer_groups(start)
    gains = trial.gains(start.ranges, frozenset(), groups)
    group = data.draw(st.sampled_from(groups))
    applied = fall_back(start, group.members)
    error = float(trial.errors(start.ranges, group.members).mean())
    assert error == pytest.approx(_output_error(applied), rel=0.02, abs=1e-4)
    few = [
        float(trial.errors(start.ranges, names, first=RANKING_IMAGES).mean())
        for names in ((), group.members)
    ]
    assert gains[group] == pytest.approx(few[0] - few[1], abs=1e-9)
    before = float(trial.errors(start.ranges).mean())
    assert before == pytest.approx(_output_error(start), rel=0.02, abs=1e-4)


def test_quantizers_that_meet_keep_one_grid() -> None:
    groups: dict[str, set[tuple[float, float]]] = {}
    for quantizer in _mixed(pyramid()).quantizers:
        if quantizer.channel_axis is None:
            (found,) = quantizer.ranges
            groups.setdefault(quantizer.group, set()).add((found.low, found.high))
    assert all(len(grids) == 1 for grids in groups.values())


def test_tensor_that_no_grid_serves_is_left_in_float_within_the_budget() -> None:
    tight, loose = (_mixed(_tailed(), budget=budget) for budget in (0.0, 1.0))
    assert tight.mixed is not None
    assert loose.mixed is not None
    assert tight.in_float == frozenset()
    assert len(loose.in_float) >= 1
    assert loose.mixed.error < tight.mixed.error
    assert 0 < loose.mixed.cost <= 1.0
    assert set(loose.mixed.in_float) == loose.in_float
    assert not loose.in_float & set(loose.ranges)
    assert {q.rule for q in loose.quantizers if q.name in loose.in_float} == {FLOAT}


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
    found = _mixed(_behind_silu(kernel=kernel))
    (quantizer,) = (q for q in found.quantizers if q.name.startswith("swish"))
    (grid,) = quantizer.ranges
    assert grid.low < 0
    assert grid.needs_zero_point is stays
    assert quantizer.rule.endswith("signed") is not stays


@pytest.mark.parametrize("kernel", [1, 3])
def test_zero_points_given_up_add_no_more_error_than_they_cost(kernel: int) -> None:
    found = _mixed(_behind_silu(kernel=kernel))
    rules = {quantizer.name: quantizer.rule for quantizer in found.quantizers}
    groups = [g for g in quantizer_groups(found) if rules[g.members[0]].endswith("signed")]
    costs = [1 + group.zero_point_cost for group in groups]
    assert len(costs) == (kernel > 1)
    assert found.mixed is not None
    assert found.mixed.error <= found.mixed.int8_error * np.prod(costs)


def test_zero_point_that_gains_more_than_it_costs_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CostModel, "zero_point", lambda self, nodes: 1e-9 * len(list(nodes)))
    found = _mixed(_behind_silu(kernel=3))
    (quantizer,) = (q for q in found.quantizers if q.name.startswith("swish"))
    assert quantizer.ranges[0].needs_zero_point


def test_without_images_it_says_so() -> None:
    start = through(pyramid(), *START, given=IMAGES)
    with pytest.raises(CalibrationError, match="no calibration image"):
        through(start, FallBackToFloat(), given=[])
    with pytest.raises(CalibrationError, match="saw no data"):
        TrialNetwork(start, [])


def test_a_quantizer_without_a_range_keeps_its_own() -> None:
    start = through(pyramid(), *START, given=IMAGES)
    kept = replace(start, quantizers=tuple(replace(q, ranges=()) for q in start.quantizers))
    errors = [TrialNetwork(each, IMAGES[:2]).errors(each.ranges) for each in (start, kept)]
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-5)


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 50),
    rule=st.sampled_from(["minmax", "mse", "kl_cfws"]),
    others=st.lists(st.sampled_from(["percentile", "minmax", "mse", "kl_cfws"]), max_size=3),
)
def test_another_rule_is_taken_only_if_the_output_is_nearer_with_it(
    seed: int, rule: RangeMethod, others: list[RangeMethod]
) -> None:
    start = through(repvgg_like(seed=seed), *START[:3], given=IMAGES)
    rules = RangesConfig(backbone=rule, neck=rule, head=rule, alternatives=tuple(others))
    before = through(start, ChooseRanges(rules), given=IMAGES)
    after = through(before, TryRules(rules), given=IMAGES)
    trial = TrialNetwork(before, IMAGES)
    errors = [float(trial.errors(network.ranges).mean()) for network in (before, after)]
    changed = [q for q, old in zip(after.quantizers, before.quantizers, strict=True) if q != old]
    assert errors[1] <= errors[0]
    assert (errors[1] < 0.98 * errors[0]) == bool(changed)
    assert {q.rule for q in changed} <= set(others) - {rule}
    parts = [{q.rule for q in after.quantizers if q.part == part} for part in get_args(Part)]
    assert all(len(of_part) <= 1 for of_part in parts)


def test_a_rule_that_serves_badly_gives_way() -> None:
    rules = RangesConfig(
        backbone="percentile",
        neck="percentile",
        head="percentile",
        percentile=50.001,
        alternatives=("minmax",),
    )
    start = through(repvgg_like(), *START[:3], ChooseRanges(rules), given=IMAGES)
    found = through(start, TryRules(rules), given=IMAGES)
    assert {q.rule for q in found.quantizers} == {"minmax"}
    ends = [limits(network.model) for network in (start, found)]
    assert any(not np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_default_recipe_on_a_small_network() -> None:
    graph, heard = repvgg_like(), []
    result = quantize_graph(
        graph,
        load_recipe("measured"),
        Source(IMAGES),
        lambda stage, done, total: heard.append((stage, done, total)),
    )
    assert result.mixed is not None
    assert {stage for stage, _, _ in heard} == {
        "try other rules",
        "fall back to float",
    }  # no zero point costs anything
    assert heard[-1][1] == heard[-1][2]
    again = quantize_graph(graph, load_recipe("measured"), Source(IMAGES))
    assert again.quantizers == result.quantizers
