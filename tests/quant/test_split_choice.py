from __future__ import annotations

import numpy as np
import pytest
from small_graphs import Source, images, repvgg_like, through

from detq.config import RangesConfig, Recipe, WeightsConfig
from detq.graph.surgery import find_node
from detq.quant.cost import AMX, VNNI, CostModel, Rates, convolution_seconds, macs, split_seconds
from detq.quant.network import SplitChoice
from detq.quant.passes.split_weights import SplitWeights
from detq.quant.quantizer import quantize_graph
from detq.quant.split_choice import CLEAN_DB

IMAGES = images(6)
NEAREST = WeightsConfig(split="cfws", layers="chosen", rounding="nearest")
FEW_BITS = NEAREST.model_copy(update={"bits": 4})


def _choose(
    outlier: float, config: WeightsConfig = FEW_BITS, budget: float = 1.0
) -> tuple[SplitChoice, ...]:
    split = SplitWeights(config, True, budget)
    return through(repvgg_like(outlier=outlier), split, given=IMAGES).split_choices


def test_outlying_centres_are_worth_a_split_and_ordinary_kernels_are_not() -> None:
    outlying, ordinary = _choose(40.0), _choose(1.0)
    gains = [np.mean([c.split_db - c.plain_db for c in some]) for some in (outlying, ordinary)]
    assert gains[0] > gains[1] + 5
    assert all(choice.chosen for choice in outlying)


def test_budget_takes_the_best_that_fit() -> None:
    every = _choose(40.0)
    cheapest = min(choice.cost for choice in every)
    some = _choose(40.0, budget=2.5 * cheapest)
    spent = sum(choice.cost for choice in some if choice.chosen)
    assert 0 < spent <= 2.5 * cheapest
    assert not any(choice.chosen for choice in _choose(40.0, budget=0.0))


def test_clean_layers_are_left_whole() -> None:
    for choice in _choose(40.0, NEAREST):
        if choice.plain_db >= CLEAN_DB:
            assert not choice.chosen


def test_only_chosen_layers_are_split() -> None:
    ranges = RangesConfig(backbone="minmax", neck="minmax", head="minmax")
    recipe = Recipe(name="test", weights=FEW_BITS, ranges=ranges, latency_budget=0.4)
    result = quantize_graph(repvgg_like(outlier=40), recipe, Source(IMAGES))
    chosen = tuple(choice.name for choice in result.split_choices if choice.chosen)
    assert 0 < len(chosen) < len(result.split_choices)
    assert result.split_layers == chosen


@pytest.mark.parametrize(("name", "expected"), [("backbone.stem", 16 * 27 * 256)])
def test_macs_by_hand(name: str, expected: int) -> None:
    node = find_node(repvgg_like().model, name)
    assert macs(node) == expected


@pytest.mark.parametrize("machine", [VNNI, AMX])
def test_float_costs_more_than_int8_and_a_split_something(machine: Rates) -> None:
    model = repvgg_like().model
    for name in ("backbone.bare", "backbone.grouped", "neck.down"):
        node = find_node(model, name)
        plain = convolution_seconds(node, machine, int8=True)
        assert convolution_seconds(node, machine, int8=False) >= plain > 0
        assert split_seconds(node, machine) > 0


def test_costs_are_shares_on_the_machine_that_pays_most() -> None:
    model = repvgg_like().model
    node = find_node(model, "backbone.bare")
    slow, fast = (
        Rates(1e9, 1e9, 1e9, 1e9, 1e9, 1e-6, 1, 0.0),
        Rates(8e9, 1e9, 1e9, 1e9, 1e9, 1e-6, 1, 0.5),
    )
    alone = [CostModel({m: CostModel.of(model, (m,)).plain_s[m]}) for m in (slow, fast)]
    both = CostModel.of(model, (slow, fast))
    for cost in (
        lambda m: m.split(node),
        lambda m: m.in_float([node]),
        lambda m: m.float_sum(node),
        lambda m: m.zero_point([node]),
    ):
        first, second = (cost(each) for each in alone)
        assert 0 <= first < second
        assert cost(both) == second
