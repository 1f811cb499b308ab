"""Speed of several models, measured in turns in one run: the machine's mood hits all alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from detq.errors import DetqError
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Steps, silent
from detq.records import BenchResult
from detq.runtime.detector import CompiledGraph
from detq.runtime.execution import constant_bytes
from detq.runtime.options import RuntimeOptions

WARM_UP = 5
BURST_S = 0.5
"""Throughput is measured over bursts of about that length."""

DEFAULT_OPTIONS = RuntimeOptions()
Milliseconds = np.ndarray


def bench(
    graphs: Sequence[DetectorGraph],
    *,
    rounds: int = 50,
    bursts: int = 0,
    options: RuntimeOptions = DEFAULT_OPTIONS,
    progress: Steps | None = None,
) -> list[BenchResult]:
    """Latency of bare inference, one image at a time, model after model in every round.

    Then, if ``bursts`` are wanted, throughput with as many images at once as suits the machine,
    also in turns. Results come in the order of ``graphs``; ratios are against the first. Raises
    DetqError for fewer than one round.
    """
    if rounds < 1:
        raise DetqError(f"bench: rounds must be 1 or more, got {rounds}")
    detectors = [CompiledGraph(graph, options=replace(options, requests=1)) for graph in graphs]
    steps = rounds + bursts * len(graphs)
    tell = progress or silent
    latencies_ms = _latencies(detectors, rounds, lambda done: tell(done, steps))
    results = [
        _result(detector, latencies_ms[:, index], latencies_ms[:, 0])
        for index, detector in enumerate(detectors)
    ]
    if bursts < 1:
        return results
    rates = _rates(graphs, results, bursts, options, lambda done: tell(rounds + done, steps))
    return [
        replace(result, images_per_s=rate, requests=requests)
        for result, (rate, requests) in zip(results, rates, strict=True)
    ]


def _latencies(
    detectors: Sequence[CompiledGraph], rounds: int, progress: Callable[[int], None]
) -> Milliseconds:
    """[rounds, models]"""
    inputs = [_noise(detector) for detector in detectors]
    latencies_ms = np.zeros((rounds, len(detectors)))
    for number in range(-WARM_UP, rounds):
        for index, detector in enumerate(detectors):
            started = time.perf_counter()
            detector.infer(inputs[index])
            if number >= 0:
                latencies_ms[number, index] = (time.perf_counter() - started) * 1000
        if number >= 0:
            progress(number + 1)
    return latencies_ms


def _rates(
    graphs: Sequence[DetectorGraph],
    latencies: Sequence[BenchResult],
    bursts: int,
    options: RuntimeOptions,
    progress: Callable[[int], None],
) -> list[tuple[float, int]]:
    """Images per second of each model, and how many were in flight: medians of the bursts."""
    detectors = [CompiledGraph(graph, options=options) for graph in graphs]
    inputs = [_noise(detector) for detector in detectors]
    rates = np.zeros((bursts, len(graphs)))
    for number in range(-1, bursts):  # the first warms up
        for index, (detector, known) in enumerate(zip(detectors, latencies, strict=True)):
            count = max(2 * detector.requests, math.ceil(BURST_S * 1000 / known.latency_ms))
            started = time.perf_counter()
            detector.infer_all([inputs[index]] * count)
            if number >= 0:
                rates[number, index] = count / (time.perf_counter() - started)
                progress(number * len(graphs) + index + 1)
    medians = np.median(rates, axis=0)
    return [
        (float(rate), detector.requests) for rate, detector in zip(medians, detectors, strict=True)
    ]


def _noise(detector: CompiledGraph) -> np.ndarray:
    shape = (1, *detector.spec.size_hw, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _result(detector: CompiledGraph, own_ms: Milliseconds, first_ms: Milliseconds) -> BenchResult:
    latency_ms = float(np.median(own_ms))
    return BenchResult(
        model=detector.spec.name,
        latency_ms=latency_ms,
        latency_p90_ms=float(np.percentile(own_ms, 90)),
        latency_p99_ms=float(np.percentile(own_ms, 99)),
        speedup=float(np.median(first_ms / own_ms)),
        precision=detector.executed_precision,
        int8_share=detector.int8_share,
        macs_per_s=detector.macs / latency_ms * 1000,
        size_mb=constant_bytes(detector.graph.model) / 1e6,
    )
