from __future__ import annotations

import numpy as np
import pytest
from small_graphs import Source, images, repvgg_like

from detq.config import RangesConfig, Recipe, WeightsConfig
from detq.graph.surgery import find_node
from detq.quant.cost import AMX, VNNI, CostModel, Machine, convolution_seconds, macs, split_seconds
from detq.quant.layer_choice import CLEAN_DB, choose_layers
from detq.quant.ptq import quantize_graph

IMAGES = images(6)
NEAREST = WeightsConfig(split="cfws", layers="measured", rounding="nearest")
FEW_BITS = NEAREST.model_copy(update={"bits": 4})


def _choose(outlier: float, config: WeightsConfig = FEW_BITS, budget: float = 1.0) -> list[object]:
    graph = repvgg_like(outlier=outlier)
    return choose_layers(graph, config, lambda: IMAGES, budget=budget, limit_pairs=True)  # type: ignore[return-value]


def test_outlying_centres_are_worth_a_split_and_ordinary_kernels_are_not() -> None:
    outlying, ordinary = _choose(40.0), _choose(1.0)
    gains = [np.mean([c.split_db - c.plain_db for c in some]) for some in (outlying, ordinary)]  # type: ignore[attr-defined]
    assert gains[0] > gains[1] + 5
    assert all(choice.chosen for choice in outlying)  # type: ignore[attr-defined]


def test_budget_takes_the_best_that_fit() -> None:
    every = _choose(40.0)
    cheapest = min(choice.cost for choice in every)  # type: ignore[attr-defined]
    some = _choose(40.0, budget=2.5 * cheapest)
    spent = sum(choice.cost for choice in some if choice.chosen)  # type: ignore[attr-defined]
    assert 0 < spent <= 2.5 * cheapest
    assert not any(choice.chosen for choice in _choose(40.0, budget=0.0))  # type: ignore[attr-defined]


def test_clean_layers_are_left_whole() -> None:
    for choice in _choose(40.0, NEAREST):
        if choice.plain_db >= CLEAN_DB:  # type: ignore[attr-defined]
            assert not choice.chosen  # type: ignore[attr-defined]


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
def test_float_costs_more_than_int8_and_a_split_something(machine: Machine) -> None:
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
        Machine(1e9, 1e9, 1e9, 1e9, 1e9, 1e-6, 1, 0.0),
        Machine(8e9, 1e9, 1e9, 1e9, 1e9, 1e-6, 1, 0.5),
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
