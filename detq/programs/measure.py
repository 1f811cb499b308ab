"""From file to boxes: programs measured in turns, so that the machine's mood hits all alike."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from statistics import median
from typing import Any

import openvino as ov

from detq.artifact import write_artifact
from detq.benchmark import Variant
from detq.data.frames import read_frames
from detq.errors import ConfigError, DetqError
from detq.extras import require
from detq.files import scratch_folder
from detq.progress import Steps, silent
from detq.runtime.detector import check_rect
from detq.runtime.options import RuntimeOptions

PEERS: Mapping[str, str] = {
    "ultralytics": "ultralytics",
    "onnxruntime": "onnxruntime",
    "benchmark_app": "openvino",
}
"""Other programs that run the same models, and the package that each needs."""
_EXPORTED = "_openvino_model"
"""How the name of an exported directory ends where Ultralytics takes it for one."""
STAGES = "stages"
"""The order to measure each stage alone."""
MAX_FRAMES = 300
"""So many images of a source, at most, are one round."""


@dataclass(frozen=True)
class ProgramSpeed:
    """One program on one model: medians over rounds; None where it was not measured.

    ``first_s`` is from starting the process to the first detections, ``peak_mb`` the most memory
    that it held. ``share_of_bare`` is the median over rounds of end-to-end / bare throughput,
    ``core_ms`` what an image takes of all cores together, by stage, one stage after the other,
    ``precision`` what most of the network computes in, None where that is the program's own affair.
    """

    program: str
    model: str
    first_s: float | None = None
    peak_mb: float | None = None
    bare_per_s: float | None = None
    end_to_end_per_s: float | None = None
    share_of_bare: float | None = None
    core_ms: Mapping[str, float] | None = None
    precision: str | None = None


Models = Mapping[str, tuple[Path, Variant]]
"""By name: the file it was read from, its graph, and how detq compiles it."""


def check_programs(models: Models, source: str, peers: Sequence[str], *, rect: bool | None) -> None:
    """Say what is wrong with arguments of :func:`measure_programs`, before a long run.

    Raises ConfigError for a peer that is unknown, not installed, or that can run none of the
    models; DataError for the source; CheckpointError for a graph that is bound to its size.
    """
    read_frames(source)
    list(_jobs(models, peers))
    if rect:
        for _, variant in models.values():
            check_rect(variant.graph)


def measure_programs(
    models: Models,
    source: str,
    *,
    peers: Sequence[str] = (),
    rounds: int = 3,
    rect: bool | None = False,
    stages: bool = False,
    progress: Steps | None = None,
) -> list[ProgramSpeed]:
    """Every model through detq, and through each peer that can run it, in turns.

    ``source`` is whatever ``detq predict`` reads; with ``rect`` detq's inputs have its shape (None:
    where the graph can have it), with ``stages`` each stage of detq's is measured alone, too.
    Raises ConfigError for a peer as :func:`check_programs` does, DetqError with what ends a
    program.
    """
    tell, jobs = progress or silent, list(_jobs(models, peers))
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder(Path(tempfile.gettempdir())))
        runs = [
            (job, stack.enter_context(_started(job, source, folder / str(number), rect)))
            for number, job in enumerate(jobs)
        ]
        answers: list[list[_Answer]] = [[] for _ in runs]
        for done in range(rounds):
            for (_, program), own in zip(runs, answers, strict=True):
                own.append(program.answer())
            tell(done + 1, rounds)
        return [
            _speed(job, program, own, program.core_ms() if stages else None)
            for (job, program), own in zip(runs, answers, strict=True)
        ]


@dataclass(frozen=True)
class _Job:
    """A program and the model that it is to run."""

    program: str
    model: str
    path: Path
    variant: Variant


@dataclass(frozen=True)
class _Answer:
    """One round: images per second."""

    bare: float | None
    end_to_end: float | None


def _jobs(models: Models, peers: Sequence[str]) -> Iterator[_Job]:
    """In the order of the table: detq first, model by model, and its peers behind it."""
    takes: dict[str, Callable[[Path], bool]] = {
        "ultralytics": lambda path: path.is_dir(),
        "onnxruntime": lambda path: True,
        "benchmark_app": lambda path: True,
    }
    needs = {
        "ultralytics": "an exported directory",
        "onnxruntime": "a model",
        "benchmark_app": "a model",
    }
    for peer in peers:
        if peer not in PEERS:
            raise ConfigError(f"peer {peer!r}: expected one of {', '.join(PEERS)}")
        if find_spec(PEERS[peer]) is None:
            raise ConfigError(f"peer {peer}: is not installed here; pip install {PEERS[peer]}")
        if peer == "onnxruntime":
            require("peer onnxruntime", "onnx")  # it is given an ONNX file
        if peer == "ultralytics" and find_spec("torchvision") is None:
            raise ConfigError("peer ultralytics: predicts with torchvision, which is not installed")
        if not any(takes[peer](path) for path, _ in models.values()):
            raise ConfigError(f"peer {peer}: runs {needs[peer]}, and none is among the models")
    for name, (path, variant) in models.items():
        yield _Job("detq", name, path, variant)
        for peer in peers:
            if takes[peer](path):
                yield _Job(peer, name, path, variant)


@contextmanager
def _started(job: _Job, source: str, folder: Path, rect: bool | None) -> Iterator[_Worker]:
    """The program at work, with files of its own in ``folder``."""
    path, graph = job.path, job.variant.graph
    if job.program == "benchmark_app":
        path = folder / "model.xml"
        folder.mkdir(parents=True)
        ov.save_model(graph.model, path, compress_to_fp16=False)
    elif job.program == "onnxruntime":  # the graph that detq runs, whatever file it came from
        from detq.onnx_export import write_onnx  # noqa: PLC0415 - detq bench itself needs no onnx

        path = folder / "model.onnx"
        write_onnx(graph, path)
    elif job.program == "detq" and not path.is_dir():
        path = folder / f"{graph.spec.name}{_EXPORTED}"
        write_artifact(graph, path)
    elif job.program == "ultralytics" and not path.name.endswith(_EXPORTED):
        path = copytree(path, folder / f"{path.name}{_EXPORTED}")
    settings = {**_plain(job.variant.options), "rect": rect}
    with _Worker(job.program, path, source, settings) as worker:
        yield worker


class _Worker:
    """A process of :mod:`detq.programs.worker`; a context manager that ends it."""

    def __init__(self, program: str, path: Path, source: str, options: Mapping[str, Any]) -> None:
        module = [sys.executable, "-m", "detq.programs.worker"]
        arguments = [program, str(path), str(source), str(MAX_FRAMES), json.dumps(options)]
        self._name = program
        self._log = tempfile.TemporaryFile(  # noqa: SIM115 - closed with the process
            "w+", encoding="utf-8", errors="replace"
        )
        started_s = time.perf_counter()
        self._process = subprocess.Popen(
            [*module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            encoding="utf-8",
        )
        self._orders: list[str] = self._read()["orders"]
        self.first_s: float | None = time.perf_counter() - started_s
        self.peak_mb: float | None = None

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def answer(self) -> _Answer:
        rates = {}
        for order in self._orders:
            if order != STAGES:
                answer = self._obey(order)
                rates[order] = answer["images"] / answer["seconds"]
        return _Answer(rates.get("bare"), rates.get("end_to_end"))

    def core_ms(self) -> dict[str, float] | None:
        """By stage; None for a program whose stages are its own affair."""
        return dict(self._obey(STAGES)["core_ms"]) if STAGES in self._orders else None

    def _obey(self, order: str) -> dict[str, Any]:
        with suppress(BrokenPipeError):  # it has ended: what it said last says why
            print(order, file=self._process.stdin, flush=True)
        answer = self._read()
        self.peak_mb = answer["peak_mb"]
        return answer

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if line:
            answer = dict(json.loads(line))
            if "error" in answer:
                self.__exit__()
                raise DetqError(answer["error"])
            return answer
        self._log.seek(0)
        last = (self._log.read().strip().splitlines() or ["no message"])[-1]
        self.__exit__()
        raise DetqError(f"{self._name}: stopped while it was measured ({last})")


def _speed(
    job: _Job,
    program: _Worker,
    answers: Sequence[_Answer],
    core_ms: Mapping[str, float] | None,
) -> ProgramSpeed:
    shares = [
        answer.end_to_end / answer.bare
        for answer in answers
        if answer.end_to_end is not None and answer.bare is not None
    ]
    return ProgramSpeed(
        program=job.program,
        model=job.model,
        first_s=None if job.program == "benchmark_app" else program.first_s,  # it finds nothing
        peak_mb=program.peak_mb,
        bare_per_s=_median(answer.bare for answer in answers),
        end_to_end_per_s=_median(answer.end_to_end for answer in answers),
        share_of_bare=_median(shares),
        core_ms=core_ms,
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _plain(options: RuntimeOptions) -> dict[str, Any]:
    directory = options.cache_dir
    return {**asdict(options), "cache_dir": None if directory is None else str(directory)}
