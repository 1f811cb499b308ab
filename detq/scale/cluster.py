"""Workers of a Ray cluster, each with a compiled model of its own."""

from __future__ import annotations

import importlib
import logging
import math
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openvino as ov

from detq.errors import ConfigError, DetqError
from detq.extras import require
from detq.graph.detector_graph import DetectorGraph
from detq.graph.execute import core
from detq.records import ModelSpec
from detq.runtime.options import RuntimeOptions

REACH_S = 5.0
SHARE_OF_CPU = 0.5
"""What a worker is entered with of each core that it uses: Ray's own tasks need a place too, and
two workers of one whole core each on two cores would wait for them for ever.
"""


@dataclass(frozen=True)
class Cluster:
    """The cluster at ``address``, None starts one on this machine.

    There are at most ``workers``, by default as many as there is room for, of ``threads`` cores
    each. They see the files that we see, by the same names. Raises ConfigError without Ray, and if
    nobody listens at the address.
    """

    address: str | None = None
    workers: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        _library()
        _check_reachable(self.address)

    def map(
        self, worker: type[Any], arguments: Sequence[Any], rows: Sequence[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """What workers make of rows, in any order; those of a worker that dies are done again.

        ``worker`` is made once in each process, of ``arguments``, and called with columns of a
        row or some. Raises ConfigError without the cluster, DetqError for what a worker raised.
        """
        if not rows:
            return
        ray = _library()
        with _connection(ray, self.address):
            cores = ray.cluster_resources().get("CPU", 1)
            if self.threads > cores:
                raise ConfigError(
                    f"--threads {self.threads}: the cluster has {cores:g} cores; pass fewer"
                )
            room = max(math.floor(cores / self.threads), 1)
            most = min(self.workers or room, len(rows))
            done = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map_batches(
                worker,
                fn_constructor_args=tuple(arguments),
                batch_size=1,
                num_cpus=self.threads * SHARE_OF_CPU,
                # As many as there is room for at once; a cluster that grows takes more.
                compute=ray.data.ActorPoolStrategy(min_size=min(most, room), max_size=most),
            )
            try:
                yield from done.iter_rows()
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, DetqError):
                    raise cause from None
                raise DetqError(f"ray: {_last_line(error)}") from None


def check_device(device: str) -> None:
    """Raise ConfigError for another than the CPU."""
    if device != "CPU":
        raise ConfigError("--device: with --engine ray, workers compute on their CPUs")


def beside_others(threads: int, alone: RuntimeOptions | None = None) -> RuntimeOptions:
    """How a model is compiled that has some cores of a machine, and others of its kind the rest.

    It finds what it would find ``alone``, with those options: its float precision is theirs. Not
    pinned: each process would tie its threads to the same first cores.
    """
    precision = (alone or RuntimeOptions()).float_precision
    return RuntimeOptions(threads=threads, pinning=False, float_precision=precision)


def packed(graph: DetectorGraph) -> tuple[bytes, bytes, ModelSpec]:
    """A graph as bytes, for a process on another machine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.save_model(graph.model, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes(), graph.spec


def unpacked(parts: tuple[bytes, bytes, ModelSpec], folder: str) -> DetectorGraph:
    """The graph again, in a worker, which then goes to ``folder``, where names begin.

    Raises DetqError if there is no such folder on its machine.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise DetqError(
            f"ray: a worker has no folder {folder} ({error.strerror}); use one that all machines "
            "share"
        ) from None
    xml, weights, spec = parts
    return DetectorGraph(core().read_model(xml, weights), spec)


def _library() -> Any:
    require("--engine ray", "ray")
    ray = importlib.import_module("ray")
    importlib.import_module("ray.data")
    return ray


@contextmanager
def _connection(ray: Any, address: str | None) -> Iterator[None]:
    """A connection that ends with the block, and with it a cluster that was started for it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    was_there = ray.is_initialized()
    if not was_there:
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


def _last_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
