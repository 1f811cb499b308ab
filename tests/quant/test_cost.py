from __future__ import annotations

import pytest
from small_graphs import repvgg_like

from detq.graph.surgery import find_node
from detq.quant.cost import AMX, VNNI, CostModel, Rates, convolution_seconds, macs


@pytest.mark.parametrize(("name", "expected"), [("backbone.stem", 16 * 27 * 256)])
def test_macs_by_hand(name: str, expected: int) -> None:
    node = find_node(repvgg_like().model, name)
    assert macs(node) == expected


@pytest.mark.parametrize("machine", [VNNI, AMX])
def test_float_costs_more_than_int8(machine: Rates) -> None:
    model = repvgg_like().model
    for name in ("backbone.bare", "backbone.grouped", "neck.down"):
        node = find_node(model, name)
        plain = convolution_seconds(node, machine, int8=True)
        assert convolution_seconds(node, machine, int8=False) >= plain > 0


def test_costs_are_shares_on_the_machine_that_pays_most() -> None:
    model = repvgg_like().model
    node = find_node(model, "backbone.bare")
    slow, fast = (
        Rates(1e9, 1e9, 1e9, 1e9, 1e-6, 1, 0.0),
        Rates(8e9, 1e9, 1e9, 1e9, 1e-6, 1, 0.5),
    )
    alone = [CostModel({m: CostModel.of(model, (m,)).plain_s[m]}) for m in (slow, fast)]
    both = CostModel.of(model, (slow, fast))
    for cost in (
        lambda m: m.in_float([node]),
        lambda m: m.float_sum(node),
        lambda m: m.zero_point([node]),
    ):
        first, second = (cost(each) for each in alone)
        assert 0 <= first < second
        assert cost(both) == second
