from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from detq.benchmark import WARM_UP, bench
from detq.errors import DetqError
from detq.graph.detector_graph import DetectorGraph
from detq.records import ModelSpec

Image = np.ndarray


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models in the order in which they are run.

    Time stands still but for inference: a model takes as many milliseconds as its name has letters,
    and one more with every round.
    """
    turns: list[str] = []
    now_ms = 0.0

    class Clocked:
        executed_precision = "fp32"
        int8_share = 0.25

        def __init__(self, graph: DetectorGraph, *, requests: int, threads: int | None) -> None:
            assert (requests, threads) == (1, 3)
            self.graph, self.spec = graph, graph.spec

        def infer(self, image: Image) -> None:
            nonlocal now_ms
            assert image.shape == (1, 3, *self.spec.size_hw)
            now_ms += len(self.spec.name) + turns.count(self.spec.name)
            turns.append(self.spec.name)

    clock = SimpleNamespace(perf_counter=lambda: now_ms / 1000)
    monkeypatch.setitem(bench.__globals__, "time", clock)
    monkeypatch.setitem(bench.__globals__, "Detector", Clocked)
    return turns


@pytest.fixture
def named(colour_graph: DetectorGraph) -> Callable[[str], DetectorGraph]:
    """The detector of coloured halves under another name."""

    def rename(name: str) -> DetectorGraph:
        spec = ModelSpec(name, "test", colour_graph.spec.class_names, (32,), (32, 64))
        return DetectorGraph(colour_graph.model, spec)

    return rename


def test_models_take_turns(turns: list[str], named: Callable[[str], DetectorGraph]) -> None:
    """A machine that slows down half-way must slow down all models alike."""
    reports: list[tuple[int, int]] = []
    bench(
        [named("a"), named("bb")],
        rounds=3,
        threads=3,
        progress=lambda done, total: reports.append((done, total)),
    )
    assert turns == ["a", "bb"] * (WARM_UP + 3)
    assert reports == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.usefixtures("turns")
def test_results_are_medians_in_order_with_ratios_to_the_first(
    named: Callable[[str], DetectorGraph],
) -> None:
    names = ["slow model", "fast", "slower model"]
    results = bench([named(name) for name in names], rounds=11, threads=3)
    assert [result.model for result in results] == names
    rounds = WARM_UP + np.arange(11)  # the warm-up is not counted
    for name, result in zip(names, results, strict=True):
        own, first = rounds + len(name), rounds + len(names[0])
        assert result.latency_ms == pytest.approx(np.median(own))
        assert result.latency_p90_ms == pytest.approx(np.percentile(own, 90))
        assert result.speedup == pytest.approx(np.median(first / own))
        assert (result.precision, result.int8_share) == ("fp32", 0.25)
    assert results[0].speedup == 1


def test_real_models_are_measured(colour_graph: DetectorGraph) -> None:
    first, second = bench([colour_graph, colour_graph], rounds=2, threads=1)
    assert first.speedup == 1
    assert min(first.latency_ms, second.latency_ms, second.speedup) > 0
    assert (first.precision, first.int8_share) == ("fp32", 0)


@pytest.mark.parametrize("options", [{"rounds": 0}, {"rounds": -1}, {"threads": 0}], ids=str)
def test_fewer_than_one_is_an_error(colour_graph: DetectorGraph, options: dict[str, Any]) -> None:
    with pytest.raises(DetqError, match=next(iter(options))):
        bench([colour_graph], **options)
