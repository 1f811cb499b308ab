from __future__ import annotations

import pytest

from detq.errors import DetqError
from detq.graph.detector_graph import DetectorGraph
from detq.runtime.layer_times import layer_times


def test_shares_of_executed_operations_add_up(colour_graph: DetectorGraph) -> None:
    layers = layer_times(colour_graph, rounds=2, threads=1)
    assert layers
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert all(layer.ms >= 0 and layer.kind and layer.kernel for layer in layers)
    assert {layer.precision for layer in layers} <= {"fp32", "int8", "bf16", "i32", "i64", "any"}


def test_fewer_than_one_round_is_an_error(colour_graph: DetectorGraph) -> None:
    with pytest.raises(DetqError, match="rounds"):
        layer_times(colour_graph, rounds=0)


def test_it_is_the_graph_that_a_detector_runs(colour_graph: DetectorGraph) -> None:
    """From pixels, [H, W, 3]: they are turned, and are not converted from float before."""
    kinds = [layer.kind for layer in layer_times(colour_graph, rounds=1)]
    assert kinds.count("Transpose") == 1
