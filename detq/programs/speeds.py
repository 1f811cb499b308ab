"""All that ``detq bench`` measures: models in turns, programs that run them, single operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from detq.benchmark import DEFAULT_OPTIONS, Variant, bench, variants_of
from detq.errors import ConfigError
from detq.graph.detector_graph import DetectorGraph
from detq.programs.measure import ProgramSpeed, check_programs, measure_programs
from detq.progress import Progress, silent
from detq.records import BenchResult, LayerTime, Machine
from detq.runtime.layer_times import layer_times
from detq.runtime.machine import describe_machine
from detq.runtime.options import RuntimeOptions
from detq.tasks import strategy_of


@dataclass(frozen=True)
class Speeds:
    """Of every model on one machine; ``programs`` and ``layers`` if they were asked for."""

    machine: Machine
    models: tuple[BenchResult, ...]
    programs: tuple[ProgramSpeed, ...]
    layers: Mapping[str, Sequence[LayerTime]] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        document = asdict(self)
        if self.layers is None:
            del document["layers"]
        return document


def check_peers(peers: Sequence[str], source: str | None) -> None:
    """Raise ConfigError for peers that have nothing to run on."""
    if peers and source is None:
        raise ConfigError("--peer: needs --source, a video or images to run the programs on")


def measure_speeds(
    models: Sequence[tuple[Path, DetectorGraph]],
    *,
    rounds: int,
    bursts: int,
    source: str | None = None,
    peers: Sequence[str] = (),
    layers: bool = False,
    rect: bool | None = False,
    options: RuntimeOptions = DEFAULT_OPTIONS,
    progress: Progress = silent,
) -> Speeds:
    """Latency and throughput (:mod:`detq.benchmark`) of models, called by the files they are from.

    With a ``source``, images or a video, also from there to boxes (:mod:`detq.programs.measure`),
    beside ``peers``, float models in the precision that was fastest, with ``rect`` at inputs of its
    shape (None: where a model can); with ``layers`` also where each model, and each stage on the
    way, spends its time. Raises ConfigError for what does not go together, and a DetqError if a
    program fails.
    """
    graphs, names = [graph for _, graph in models], [str(path) for path, _ in models]
    if source is not None and not all(strategy_of(graph.spec).FINDS_BOXES for graph in graphs):
        raise ConfigError("--source: measures detectors, from file to boxes; leave it out")
    sources = {str(path): (path, Variant(graph, options)) for path, graph in models}
    if source is not None:
        check_programs(sources, source, peers, rect=rect)
    machine = describe_machine(threads=options.threads, device=options.device)
    report = partial(progress, "measuring")
    variants = [
        (name, variant)
        for name, graph in zip(names, graphs, strict=True)
        for variant in variants_of(graph, options)
    ]
    results = [
        replace(row, model=name)
        for row, (name, _) in zip(
            bench([each for _, each in variants], rounds=rounds, bursts=bursts, progress=report),
            variants,
            strict=True,
        )
    ]
    programs: Sequence[ProgramSpeed] = ()
    if source is not None:
        fastest = _fastest(results, variants)
        programs = [
            replace(speed, precision=fastest[speed.model][0].precision)
            if speed.program in {"detq", "benchmark_app"}
            else speed
            for speed in measure_programs(
                {name: (path, fastest[name][1]) for name, (path, _) in sources.items()},
                source,
                peers=peers,
                rounds=max(bursts, 1),
                rect=rect,
                stages=layers,
                progress=partial(progress, "measuring programs"),
            )
        ]
    return Speeds(
        machine=machine,
        models=tuple(results),
        programs=tuple(programs),
        layers=_layer_times(variants, rounds) if layers else None,
    )


def _fastest(
    results: Sequence[BenchResult], variants: Sequence[tuple[str, Variant]]
) -> dict[str, tuple[BenchResult, Variant]]:
    """Of each model its fastest variant, and how fast that is."""
    pairs = [(row, variant) for row, (_, variant) in zip(results, variants, strict=True)]
    slowest_first = sorted(pairs, key=lambda pair: -pair[0].latency_ms)
    return {row.model: (row, variant) for row, variant in slowest_first}


def _layer_times(
    variants: Sequence[tuple[str, Variant]], rounds: int
) -> dict[str, Sequence[LayerTime]]:
    """Of every model, in every precision that it was measured in."""
    return {
        name if each.float_precision == "f32" else f"{name} in {each.float_precision}": layer_times(
            each.graph,
            rounds=rounds,
            threads=each.options.threads,
            float_precision=each.float_precision,
        )
        for name, each in variants
    }
