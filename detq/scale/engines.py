"""Who does the shards of a run: this process, or the workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from detq.graph.detector_graph import DetectorGraph
from detq.progress import Steps
from detq.runtime.options import RuntimeOptions
from detq.scale.cluster import Cluster, beside_others, packed, unpacked
from detq.scale.manifest import Shard
from detq.scale.work import Job, Outcome, Worker

Engine = Literal["local", "ray"]


class Run(Protocol):
    """Does shards and tells what came of each."""

    def __call__(
        self, graph: DetectorGraph, job: Job, shards: Iterator[Shard], progress: Steps, total: int
    ) -> Iterator[Outcome]:
        """``total`` is how many images there are, 0 if that is unknown."""


@dataclass(frozen=True)
class Local:
    """This process, one shard after another."""

    options: RuntimeOptions | None = None

    def __call__(
        self, graph: DetectorGraph, job: Job, shards: Iterator[Shard], progress: Steps, total: int
    ) -> Iterator[Outcome]:
        """Raises what :meth:`Worker.do` raises."""
        worker, done = Worker(graph, job, self.options), 0

        def step() -> None:
            nonlocal done
            done += 1
            progress(done, total)

        for shard in shards:
            yield worker.do(shard, step)


@dataclass(frozen=True)
class OnRay:
    """The workers of a Ray cluster; ``options`` are those of this process, were it to do it."""

    cluster: Cluster
    options: RuntimeOptions | None = None

    def __call__(
        self, graph: DetectorGraph, job: Job, shards: Iterator[Shard], progress: Steps, total: int
    ) -> Iterator[Outcome]:
        """Raises what :meth:`Cluster.map` raises."""
        rows = [asdict(shard) | {"part": str(shard.part)} for shard in shards]
        options = beside_others(self.cluster.threads, self.options)
        arguments = (packed(graph), str(Path.cwd()), job, options)
        finished = 0
        for row in self.cluster.map(_Actor, arguments, rows):
            outcome = Outcome(**{name: int(value) for name, value in row.items()})
            finished += outcome.frames
            progress(finished, total)
            yield outcome


class _Actor:
    """A worker on Ray."""

    def __init__(self, parts: Any, folder: str, job: Job, options: RuntimeOptions) -> None:
        self._worker = Worker(unpacked(parts, folder), job, options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        outcomes = []
        columns = (batch[name] for name in ("index", "offset", "part", "images"))
        for index, offset, part, images in zip(*columns, strict=True):
            shard = Shard(int(index), int(offset), Path(str(part)), int(images))
            if shard.part.exists():  # done by a worker that died before it could say so
                outcomes.append(Outcome(shard.index, 0, 0, 0))
            else:
                outcomes.append(self._worker.do(shard))
        names = list(asdict(outcomes[0]))
        return {name: [getattr(outcome, name) for outcome in outcomes] for name in names}
