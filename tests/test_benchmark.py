from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest

from detq.benchmark import WARM_UP, Variant, bench, variants_of
from detq.errors import DetqError
from detq.graph.detector_graph import DetectorGraph
from detq.records import ModelSpec
from detq.runtime.options import RuntimeOptions

Image = np.ndarray
THREE_THREADS = RuntimeOptions(threads=3)


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
        device = "CPU"
        int8_share = 0.25
        macs = 1000

        def __init__(self, graph: DetectorGraph, *, options: RuntimeOptions) -> None:
            assert options.threads == 3
            self.graph, self.spec, self.requests = graph, graph.spec, options.requests or 4

        def infer_all(self, inputs: list[Image]) -> None:
            """Four at once: as many images in a quarter of the time."""
            nonlocal now_ms
            assert len(inputs) >= 8
            now_ms += len(inputs) * len(self.spec.name) / 4
            turns.append(f"{self.spec.name} burst")

        def create_request(self) -> Self:
            return self

        def infer(self, inputs: list[Image], *, share_inputs: bool) -> None:
            nonlocal now_ms
            (image,) = inputs
            assert share_inputs
            assert (image.shape, image.dtype) == ((1, *self.spec.size_hw, 3), np.uint8)
            now_ms += len(self.spec.name) + turns.count(self.spec.name)
            turns.append(self.spec.name)

    clock = SimpleNamespace(perf_counter=lambda: now_ms / 1000)
    monkeypatch.setitem(bench.__globals__, "time", clock)
    monkeypatch.setitem(bench.__globals__, "CompiledGraph", Clocked)
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
        [Variant(named("a"), THREE_THREADS), Variant(named("bb"), THREE_THREADS)],
        rounds=3,
        progress=lambda done, total: reports.append((done, total)),
    )
    assert turns == ["a", "bb"] * (WARM_UP + 3)
    assert reports == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.usefixtures("turns")
def test_results_are_medians_in_order_with_ratios_to_the_first(
    named: Callable[[str], DetectorGraph],
) -> None:
    names = ["slow model", "fast", "slower model"]
    variants = [Variant(named(name), THREE_THREADS) for name in names]
    results = bench(variants, rounds=11)
    assert [result.model for result in results] == names
    rounds = WARM_UP + np.arange(11)  # the warm-up is not counted
    for name, result in zip(names, results, strict=True):
        own, first = rounds + len(name), rounds + len(names[0])
        assert result.latency_ms == pytest.approx(np.median(own))
        assert result.latency_p90_ms == pytest.approx(np.percentile(own, 90))
        assert result.latency_p99_ms == pytest.approx(np.percentile(own, 99))
        assert result.macs_per_s == pytest.approx(1000 / np.median(own) * 1000)
        assert (result.images_per_s, result.requests) == (None, None)
        assert result.speedup == result.of_f32 == pytest.approx(np.median(first / own))
        assert (result.precision, result.int8_share) == ("fp32", 0.25)
    assert results[0].speedup == 1


def test_ratios_are_against_the_fastest_float_of_the_first_float_model(
    turns: list[str], named: Callable[[str], DetectorGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models take as long as their names are; the float one is called otherwise in bf16."""
    monkeypatch.setattr(DetectorGraph, "is_quantized", property(lambda g: "int8" in g.spec.name))
    exact, rounded = named("float model"), named("int8")
    other = named("another float model")
    clocked = bench.__globals__["CompiledGraph"]

    class Halved(clocked):  # type: ignore[misc]
        def __init__(self, graph: DetectorGraph, *, options: RuntimeOptions) -> None:
            super().__init__(graph, options=options)
            if options.float_precision == "bf16":
                self.spec = named("float").spec

    monkeypatch.setitem(bench.__globals__, "CompiledGraph", Halved)
    bf16 = replace(THREE_THREADS, float_precision="bf16")
    variants = [Variant(rounded), Variant(exact), Variant(exact, bf16), Variant(other)]
    variants = [replace(each, options=replace(each.options, threads=3)) for each in variants]
    results = bench(variants, rounds=1)
    own = np.array(
        [len(name) + WARM_UP for name in ("int8", "float model", "float", other.spec.name)]
    )
    assert [row.speedup for row in results] == pytest.approx(list(own[2] / own))
    assert [row.of_f32 for row in results] == pytest.approx(list(own[1] / own))
    assert [row.float_precision for row in results] == ["f32", "f32", "bf16", "f32"]
    (alone, after) = bench([Variant(rounded, THREE_THREADS)] * 2, rounds=1)
    assert (alone.speedup, alone.of_f32, after.of_f32) == (1, None, None)


def test_a_float_model_is_measured_in_every_precision_of_the_machine(
    colour_graph: DetectorGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(variants_of.__globals__, "float_precisions", lambda device: ("f32", "bf16"))
    found = variants_of(colour_graph, THREE_THREADS)
    assert [each.float_precision for each in found] == ["f32", "bf16"]
    assert {each.options.threads for each in found} == {3}
    monkeypatch.setattr(DetectorGraph, "is_quantized", property(lambda graph: True))
    assert variants_of(colour_graph) == [Variant(colour_graph)]


def test_throughput_is_measured_in_turns_after_latency(
    turns: list[str], named: Callable[[str], DetectorGraph]
) -> None:
    reports: list[tuple[int, int]] = []
    names = ["a", "bb"]
    results = bench(
        [Variant(named(name), THREE_THREADS) for name in names],
        rounds=2,
        bursts=3,
        progress=lambda done, total: reports.append((done, total)),
    )
    assert turns[-8:] == ["a burst", "bb burst"] * 4  # one of them to warm up
    assert reports == [(step, 8) for step in range(1, 9)]
    for name, result in zip(names, results, strict=True):
        assert result.images_per_s == pytest.approx(4000 / len(name))
        assert result.requests == 4


def test_real_models_are_measured(colour_graph: DetectorGraph) -> None:
    first, second = bench(
        [Variant(colour_graph, RuntimeOptions(threads=1))] * 2, rounds=2, bursts=1
    )
    assert first.speedup == 1 or second.speedup == 1
    assert min(first.latency_ms, second.latency_ms, second.speedup) > 0
    assert first.images_per_s is not None
    assert first.images_per_s > 0
    assert (first.precision, first.int8_share) == ("fp32", 0)


@pytest.mark.parametrize("options", [{"rounds": 0}, {"rounds": -1}], ids=str)
def test_fewer_than_one_is_an_error(colour_graph: DetectorGraph, options: dict[str, Any]) -> None:
    with pytest.raises(DetqError, match=next(iter(options))):
        bench([Variant(colour_graph)], **options)
