"""Where a compiled model spends its time: every operation that the runtime executes."""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np
import openvino as ov

from detq.errors import DetqError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.execute import compile_for
from detq.records import LayerTime
from detq.runtime.detector import executed
from detq.runtime.execution import PRECISIONS
from detq.runtime.options import FloatPrecision

WARM_UP = 3


def layer_times(
    graph: DetectorGraph,
    *,
    rounds: int = 20,
    threads: int | None = None,
    float_precision: FloatPrecision = "f32",
) -> list[LayerTime]:
    """Median time of each executed operation, in the order of execution; one frame at a time.

    It is the graph that a detector runs, from pixels. Raises DetqError for fewer than one round.
    """
    if rounds < 1:
        raise DetqError(f"layer times: rounds must be 1 or more, got {rounds}")
    request = profiled_request(executed(graph), threads, float_precision)
    image = np.random.default_rng(0).integers(0, 256, (1, *graph.spec.size_hw, 3), np.uint8)
    times = defaultdict[tuple[str, str, str], list[float]](list)
    for number in range(-WARM_UP, rounds):
        request.infer([image], share_inputs=True)
        for layer in request.profiling_info if number >= 0 else ():
            if layer.status == ov.ProfilingInfo.Status.EXECUTED:
                key = (layer.node_name, layer.node_type, layer.exec_type)
                times[key].append(layer.real_time.total_seconds() * 1000)
    medians = {key: float(np.median(values)) for key, values in times.items()}
    total = sum(medians.values()) or 1.0
    return [
        LayerTime(name, kind, kernel, _precision(kernel), ms, ms / total)
        for (name, kind, kernel), ms in medians.items()
    ]


def profiled_request(
    model: ov.Model, threads: int | None, float_precision: FloatPrecision = "f32"
) -> ov.InferRequest:
    """One image at a time, every operation timed."""
    properties: dict[str, str | int] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": float_precision,
        "PERF_COUNT": "YES",
    }
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    return compile_for("CPU", model, properties).create_infer_request()


def _precision(kernel: str) -> str:
    """``brgconv_avx512_1x1_i8`` -> ``int8``."""
    suffix = re.split("[_:]", kernel.lower())[-1]
    return PRECISIONS.get(suffix, suffix)
