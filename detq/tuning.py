"""Which runtime options let a model do most on this machine, measured in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detq.benchmark import Variant, bench
from detq.cores import core_count
from detq.errors import DataError
from detq.evaluation.agreement import agreement
from detq.evaluation.evaluator import run_detector
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Steps
from detq.records import BenchResult
from detq.runtime.detector import Detector
from detq.runtime.machine import float_precisions
from detq.runtime.options import RuntimeOptions

LEAST_GAIN = 0.03
"""Options that gain less than this over OpenVINO's own choice are chance."""
LEAST_AGREEMENT = 99.7
"""A 16-bit float that changes more of what is found is not worth its speed."""
IMAGES, LATENCY_ROUNDS = 64, 10


@dataclass(frozen=True)
class Tried:
    """Some options and their speed; ``agreement`` of what is found with that in float32, in
    percent, None where the precision is the same.
    """

    options: RuntimeOptions
    speed: BenchResult
    agreement: float | None = None


@dataclass(frozen=True)
class Tuning:
    """All that was tried, OpenVINO's own choice first, and the fastest."""

    tried: tuple[Tried, ...]
    best: Tried


def tune(
    graph: DetectorGraph,
    images: Sequence[Path] = (),
    *,
    bursts: int = 5,
    progress: Steps | None = None,
) -> Tuning:
    """Streams and pinning for the highest throughput, and the precision of what is not quantized.

    Another precision than float32 changes what is found a little: it is tried on ``images`` of
    objects, and only if there are some.
    """
    own = RuntimeOptions()
    others = [
        RuntimeOptions(streams=streams, pinning=pinning)
        for streams in sorted({1, core_count()})
        for pinning in (True, False)
    ]
    tried = _tried(graph, [own, *others], bursts, progress)
    best = _faster(tried[0], tried[1:])
    precisions = float_precisions()[1:] if images else ()
    if precisions:
        again = [replace(best.options, float_precision=precision) for precision in precisions]
        reference, *more = _tried(graph, [best.options, *again], bursts, progress)
        more = [replace(one, agreement=_agreement(graph, one.options, images)) for one in more]
        sound = [one for one in more if (one.agreement or 0.0) >= LEAST_AGREEMENT]
        found = _faster(reference, sound)
        best = best if found is reference else found
        tried += more
    return Tuning(tuple(tried), best)


def _tried(
    graph: DetectorGraph, settings: Sequence[RuntimeOptions], bursts: int, progress: Steps | None
) -> list[Tried]:
    """In turns."""
    variants = [Variant(graph, options) for options in settings]
    speeds = bench(variants, rounds=LATENCY_ROUNDS, bursts=bursts, progress=progress)
    return [Tried(options, speed) for options, speed in zip(settings, speeds, strict=True)]


def _faster(reference: Tried, others: Sequence[Tried]) -> Tried:
    """The fastest of the others, if it gains enough."""
    best = max([reference, *others], key=_rate)
    return best if _rate(best) > (1 + LEAST_GAIN) * _rate(reference) else reference


def _rate(tried: Tried) -> float:
    return tried.speed.images_per_s or 0.0


def _agreement(
    graph: DetectorGraph, options: RuntimeOptions, images: Sequence[Path]
) -> float | None:
    """Of what is found with what is found in float32; None if that is nothing."""
    exact, found = (
        run_detector(Detector(graph, options=each), images[:IMAGES]).detections
        for each in (replace(options, float_precision="f32"), options)
    )
    try:
        return agreement(exact, found, class_count=graph.spec.class_count)
    except DataError:
        return None
