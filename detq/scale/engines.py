"""Who does the shards of a run: this process, or the workers of a Ray cluster."""

from __future__ import annotations

import importlib
import logging
import math
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import openvino as ov

from detq.errors import ArtifactError, ConfigError, DetqError
from detq.files import staged
from detq.graph.detector_graph import DetectorGraph
from detq.graph.execute import core
from detq.progress import Steps
from detq.records import ModelSpec
from detq.runtime.options import RuntimeOptions
from detq.scale.manifest import Shard
from detq.scale.work import Job, Outcome, Worker

Engine = Literal["local", "ray"]
REACH_S = 5.0
SHARE_OF_CPU = 0.5
"""What a worker on Ray is entered with of each core that it uses: Ray's own tasks need a place too,
and two workers of one whole core each on two cores would wait for them for ever."""


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
    """The workers of a Ray cluster, each with a compiled model of its own and ``threads`` cores.

    ``address`` is the cluster's, None starts one on this machine. There are at most ``workers``,
    by default as many as the cluster has room for; shards of a worker that dies are done again.
    Raises ConfigError without Ray.
    """

    address: str | None = None
    workers: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        _library()

    def __call__(
        self, graph: DetectorGraph, job: Job, shards: Iterator[Shard], progress: Steps, total: int
    ) -> Iterator[Outcome]:
        """Raises ConfigError without the cluster, DetqError for what a worker raised."""
        rows = [asdict(shard) | {"part": str(shard.part)} for shard in shards]
        if not rows:
            return
        ray = _library()
        with _cluster(ray, self.address):
            cores = ray.cluster_resources().get("CPU", 1)
            most = self.workers or max(math.floor(cores / self.threads), 1)
            data = ray.data.from_items(rows, override_num_blocks=len(rows))
            done = data.map_batches(
                _Actor,
                fn_constructor_args=(_kept(graph, job.directory), graph.spec, job, self.threads),
                batch_size=1,
                num_cpus=self.threads * SHARE_OF_CPU,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(most, len(rows))),
            )
            finished = 0
            try:
                for row in done.iter_rows():
                    outcome = Outcome(**{name: int(value) for name, value in row.items()})
                    finished += outcome.frames
                    progress(finished, total)
                    yield outcome
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, DetqError):
                    raise cause from None
                raise DetqError(f"ray: {_last_line(error)}") from None


class _Actor:
    """A worker on Ray."""

    def __init__(self, model: Path, spec: ModelSpec, job: Job, threads: int) -> None:
        graph = DetectorGraph(core().read_model(model), spec)
        self._worker = Worker(graph, job, RuntimeOptions(threads=threads))

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


def _library() -> Any:
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError:
        raise ConfigError("--engine ray: needs Ray; pip install 'detq[ray]'") from None
    return ray


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """A connection that ends with the block, and with it a cluster that was started for it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")
    was_there = ray.is_initialized()
    if not was_there:
        _check_reachable(address)
        try:
            ray.init(
                address=address,
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise ConfigError(
                f"ray: no cluster at {address or 'this machine'} ({_last_line(error)}); check the "
                "address, or leave --address out"
            ) from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        yield
    finally:
        if not was_there:
            ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise ConfigError if nobody listens there: Ray would try for minutes, then end the process.

    ``auto``, the cluster that this machine belongs to, Ray looks up by itself.
    """
    if address is None or ":" not in address:
        return
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        with socket.create_connection((parts.hostname, parts.port or 10001), REACH_S):
            pass
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"ray: no cluster at {address} ({error}); check the address, or leave --address out"
        ) from None


def _kept(graph: DetectorGraph, directory: Path) -> Path:
    """The graph as a file beside the rows, where every worker finds it. Raises ArtifactError."""
    folder = directory / "model"
    try:
        with staged(folder) as place:
            place.mkdir()
            ov.save_model(graph.model, place / "model.xml", compress_to_fp16=False)
    except (OSError, RuntimeError) as error:
        raise ArtifactError(f"{folder}: cannot be written ({error}); see the disk") from None
    return (folder / "model.xml").resolve()


def _last_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
