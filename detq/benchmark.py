"""Speed of several models, measured in turns in one run: the machine's mood hits all alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detq.errors import DetqError
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Steps, silent
from detq.records import BenchResult
from detq.runtime.detector import CompiledGraph
from detq.runtime.execution import constant_bytes
from detq.runtime.machine import float_precisions
from detq.runtime.options import FloatPrecision, RuntimeOptions

WARM_UP = 5
BURST_S = 0.5
"""Throughput is measured over bursts of about that length."""

DEFAULT_OPTIONS = RuntimeOptions()
Milliseconds = np.ndarray


@dataclass(frozen=True)
class Variant:
    """A graph, and how it is compiled; latency is that of one request, whatever they say."""

    graph: DetectorGraph
    options: RuntimeOptions = DEFAULT_OPTIONS

    @property
    def float_precision(self) -> FloatPrecision:
        """What its float operations compute in."""
        return self.options.float_precision


def variants_of(graph: DetectorGraph, options: RuntimeOptions = DEFAULT_OPTIONS) -> list[Variant]:
    """A float graph in every precision that the device has; a quantized one as it ships."""
    known = float_precisions(options.device)
    precisions = known[:1] if graph.is_quantized else known
    return [Variant(graph, replace(options, float_precision=each)) for each in precisions]


def bench(
    variants: Sequence[Variant],
    *,
    rounds: int = 50,
    bursts: int = 0,
    progress: Steps | None = None,
) -> list[BenchResult]:
    """Latency of bare inference, one image at a time, model after model in every round.

    Then, if ``bursts`` are wanted, throughput with as many images at once as suits the machine,
    also in turns. Results come in the order of ``variants``. Ratios are against the fastest variant
    of the first float graph, or against the first of all where there is none: users have that
    anyway, whatever float32 takes. Raises DetqError for fewer than one round.
    """
    if rounds < 1:
        raise DetqError(f"bench: rounds must be 1 or more, got {rounds}")
    detectors = [
        CompiledGraph(each.graph, options=replace(each.options, requests=1, streams=None))
        for each in variants
    ]
    steps = rounds + bursts * len(variants)
    tell = progress or silent
    latencies_ms = _latencies(detectors, rounds, lambda done: tell(done, steps))
    fastest, f32 = _references(variants, latencies_ms)
    results = [
        _result(detector, variant, own_ms, fastest, f32)
        for detector, variant, own_ms in zip(detectors, variants, latencies_ms.T, strict=True)
    ]
    if bursts < 1:
        return results
    rates = _rates(variants, results, bursts, lambda done: tell(rounds + done, steps))
    return [
        replace(result, images_per_s=rate, requests=requests)
        for result, (rate, requests) in zip(results, rates, strict=True)
    ]


def _references(
    variants: Sequence[Variant], latencies_ms: Milliseconds
) -> tuple[Milliseconds, Milliseconds | None]:
    """Every round of the fastest float, and of the same model in float32 if there is one."""
    graph = next((each.graph for each in variants if not each.graph.is_quantized), None)
    own = [index for index, each in enumerate(variants) if each.graph is graph]
    if not own:
        return latencies_ms[:, 0], None
    fastest = min(own, key=lambda index: float(np.median(latencies_ms[:, index])))
    f32 = next((i for i in own if variants[i].float_precision == "f32"), None)
    return latencies_ms[:, fastest], None if f32 is None else latencies_ms[:, f32]


def _latencies(
    detectors: Sequence[CompiledGraph], rounds: int, progress: Callable[[int], None]
) -> Milliseconds:
    """[rounds, models]"""
    inputs = [_noise(detector) for detector in detectors]
    requests = [detector.create_request() for detector in detectors]
    latencies_ms = np.zeros((rounds, len(detectors)))
    for number in range(-WARM_UP, rounds):
        for index, request in enumerate(requests):
            started = time.perf_counter()
            request.infer([inputs[index]], share_inputs=True)
            if number >= 0:
                latencies_ms[number, index] = (time.perf_counter() - started) * 1000
        if number >= 0:
            progress(number + 1)
    return latencies_ms


def _rates(
    variants: Sequence[Variant],
    latencies: Sequence[BenchResult],
    bursts: int,
    progress: Callable[[int], None],
) -> list[tuple[float, int]]:
    """Images per second of each model, and how many were in flight: medians of the bursts."""
    detectors = [CompiledGraph(each.graph, options=each.options) for each in variants]
    inputs = [_noise(detector) for detector in detectors]
    rates = np.zeros((bursts, len(variants)))
    for number in range(-1, bursts):  # the first warms up
        for index, (detector, known) in enumerate(zip(detectors, latencies, strict=True)):
            count = max(2 * detector.requests, math.ceil(BURST_S * 1000 / known.latency_ms))
            started = time.perf_counter()
            detector.infer_all([inputs[index]] * count)
            if number >= 0:
                rates[number, index] = count / (time.perf_counter() - started)
                progress(number * len(variants) + index + 1)
    medians = np.median(rates, axis=0)
    return [
        (float(rate), detector.requests) for rate, detector in zip(medians, detectors, strict=True)
    ]


def _noise(detector: CompiledGraph) -> np.ndarray:
    shape = (1, *detector.spec.size_hw, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _result(
    detector: CompiledGraph,
    variant: Variant,
    own_ms: Milliseconds,
    fastest_ms: Milliseconds,
    f32_ms: Milliseconds | None,
) -> BenchResult:
    latency_ms = float(np.median(own_ms))
    return BenchResult(
        model=detector.spec.name,
        latency_ms=latency_ms,
        latency_p90_ms=float(np.percentile(own_ms, 90)),
        latency_p99_ms=float(np.percentile(own_ms, 99)),
        speedup=float(np.median(fastest_ms / own_ms)),
        of_f32=None if f32_ms is None else float(np.median(f32_ms / own_ms)),
        float_precision=variant.float_precision,
        precision=detector.executed_precision,
        int8_share=detector.int8_share,
        macs_per_s=detector.macs / latency_ms * 1000,
        size_mb=constant_bytes(detector.graph.model) / 1e6,
        device=detector.device,
    )
