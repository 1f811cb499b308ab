from __future__ import annotations

import pytest

from detq.errors import DetqError
from detq.graph.detector_graph import DetectorGraph
from detq.runtime.detector import Detector
from detq.runtime.layer_times import layer_times
from detq.runtime.options import RuntimeOptions


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
    """From pixels: what a float input would need before them is not timed."""
    detector = Detector(colour_graph, options=RuntimeOptions(requests=1))
    executed = {
        node.get_rt_info()["layerType"].astype(str)
        for node in detector._compiled.get_runtime_model().get_ops()
    }
    kinds = {layer.kind for layer in layer_times(colour_graph, rounds=1)}
    assert kinds <= executed
    assert "Transpose" in kinds  # of pixels, [H, W, 3]
