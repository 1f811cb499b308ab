"""Latency of several models, measured in turns in one run: the machine's mood hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from detq.errors import DetqError
from detq.graph.detector_graph import DetectorGraph
from detq.records import BenchResult
from detq.runtime.detector import Detector
from detq.runtime.execution import constant_bytes

WARM_UP = 5


def bench(
    graphs: Sequence[DetectorGraph],
    *,
    rounds: int = 50,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[BenchResult]:
    """Median latency of bare inference, one image at a time, model after model in every round.

    ``threads`` defaults to all cores. Results come in the order of ``graphs``; ratios are against
    the first. Raises DetqError for fewer than one round.
    """
    if rounds < 1:
        raise DetqError(f"bench: rounds must be 1 or more, got {rounds}")
    detectors = [Detector(graph, requests=1, threads=threads) for graph in graphs]
    noise = np.random.default_rng(0)
    inputs = [noise.random((1, 3, *g.spec.size_hw), dtype=np.float32) for g in graphs]
    latencies_ms = np.zeros((rounds, len(graphs)))
    for number in range(-WARM_UP, rounds):
        for index, detector in enumerate(detectors):
            started = time.perf_counter()
            detector.infer(inputs[index])
            if number >= 0:
                latencies_ms[number, index] = (time.perf_counter() - started) * 1000
        if progress is not None and number >= 0:
            progress(number + 1, rounds)
    return [
        _result(detector, latencies_ms[:, index], latencies_ms[:, 0])
        for index, detector in enumerate(detectors)
    ]


def _result(detector: Detector, own_ms: np.ndarray, first_ms: np.ndarray) -> BenchResult:
    return BenchResult(
        model=detector.spec.name,
        latency_ms=float(np.median(own_ms)),
        latency_p90_ms=float(np.percentile(own_ms, 90)),
        speedup=float(np.median(first_ms / own_ms)),
        precision=detector.executed_precision,
        int8_share=detector.int8_share,
        size_mb=constant_bytes(detector.graph.model) / 1e6,
    )
