from __future__ import annotations

import numpy as np
import pytest
from small_graphs import Source, images, repvgg_like

from detq.config import RangesConfig, Recipe, WeightsConfig
from detq.graph.surgery import find_node
from detq.quant.cost import convolution_seconds, macs, split_seconds
from detq.quant.layer_choice import CLEAN_DB, choose_layers
from detq.quant.ptq import quantize_graph

IMAGES = images(6)
NEAREST = WeightsConfig(split="cfws", layers="measured", rounding="nearest")
FEW_BITS = NEAREST.model_copy(update={"bits": 4})


def _choose(
    outlier: float, config: WeightsConfig = FEW_BITS, budget_s: float = 1.0
) -> list[object]:
    graph = repvgg_like(outlier=outlier)
    return choose_layers(graph, config, lambda: IMAGES, budget_s=budget_s, limit_pairs=True)  # type: ignore[return-value]


def test_outlying_centres_are_worth_a_split_and_ordinary_kernels_are_not() -> None:
    outlying, ordinary = _choose(40.0), _choose(1.0)
    gains = [np.mean([c.split_db - c.plain_db for c in some]) for some in (outlying, ordinary)]  # type: ignore[attr-defined]
    assert gains[0] > gains[1] + 5
    assert all(choice.chosen for choice in outlying)  # type: ignore[attr-defined]


def test_budget_takes_the_best_that_fit() -> None:
    every = _choose(40.0)
    cheapest = min(choice.seconds for choice in every)  # type: ignore[attr-defined]
    some = _choose(40.0, budget_s=2.5 * cheapest)
    spent = sum(choice.seconds for choice in some if choice.chosen)  # type: ignore[attr-defined]
    assert 0 < spent <= 2.5 * cheapest
    assert not any(choice.chosen for choice in _choose(40.0, budget_s=0.0))  # type: ignore[attr-defined]


def test_clean_layers_are_left_whole() -> None:
    for choice in _choose(40.0, NEAREST):
        if choice.plain_db >= CLEAN_DB:  # type: ignore[attr-defined]
            assert not choice.chosen  # type: ignore[attr-defined]


def test_only_chosen_layers_are_split() -> None:
    ranges = RangesConfig(backbone="minmax", neck="minmax", head="minmax")
    recipe = Recipe(name="test", weights=FEW_BITS, ranges=ranges, latency_budget=0.9)
    result = quantize_graph(repvgg_like(outlier=40), recipe, Source(IMAGES))
    chosen = tuple(choice.name for choice in result.split_choices if choice.chosen)
    assert 0 < len(chosen) < len(result.split_choices)
    assert result.split_layers == chosen


@pytest.mark.parametrize(("name", "expected"), [("backbone.stem", 16 * 27 * 256)])
def test_macs_by_hand(name: str, expected: int) -> None:
    node = find_node(repvgg_like().model, name)
    assert macs(node) == expected


def test_float_costs_more_than_int8_and_a_split_something() -> None:
    model = repvgg_like().model
    for name in ("backbone.bare", "backbone.grouped", "neck.down"):
        node = find_node(model, name)
        assert convolution_seconds(node, int8=False) >= convolution_seconds(node, int8=True) > 0
        assert split_seconds(node) > 0
