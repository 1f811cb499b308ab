"""One program under measurement, in a process of its own: ``python -m detq.programs.worker``.

Memory and start-up can only be told apart that way, and programs that set up threads and libraries
each in their own fashion cannot disturb one another. The worker finds objects in one image, says
so, then obeys: each line on its standard input is an order, each answer one line of JSON. When
that input ends it ends too, in the midst of its work: whoever started it has died.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import numpy as np

if TYPE_CHECKING:  # start-up is part of what is measured
    import openvino as ov

    from detq.data.images import ImageBGR
    from detq.runtime.detector import CompiledGraph, Detector, Job, PlacedImage

Item = TypeVar("Item")
Result = TypeVar("Result")

BURST_S = 1.0
"""Bare inference is measured over about that long."""
AT_ONCE = 16
"""Images that a stage works on before the next one does, so that none hides behind another."""
BENCHMARK_S = "2"
"""What benchmark_app is given."""
Order = Callable[[], dict[str, Any]]


def main(program: str, model: Path, source: str, limit: int, options: dict[str, Any]) -> None:
    """Answer orders for ever; the process ends with its standard input."""
    from detq.errors import DetqError  # noqa: PLC0415 - it imports nothing

    answers = _own_output()
    given: SimpleQueue[str] = SimpleQueue()
    Thread(target=_listen, args=(given,), daemon=True).start()
    try:
        orders = PROGRAMS[program](model, source, limit, options)
        _say(answers, {"orders": list(orders)})
        while True:
            _say(answers, orders[given.get()]())
    except DetqError as error:
        _say(answers, {"error": str(error)})


def _listen(given: SimpleQueue[str]) -> None:
    for line in sys.stdin:
        given.put(line.strip())
    os._exit(0)


def _own_output() -> TextIO:
    """Where answers go; whatever else is printed goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _say(answers: TextIO, answer: dict[str, Any]) -> None:
    print(json.dumps({**answer, "peak_mb": _peak_mb()}), file=answers, flush=True)


def _peak_mb() -> float | None:
    """Of this program; ``getrusage`` would count the process that started it. Linux only."""
    status = Path("/proc/self/status")
    lines = (
        status.read_text(encoding="ascii", errors="replace").splitlines() if status.exists() else []
    )
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]  # KiB
    return peaks[0] * 1024 / 1e6 if peaks else None


def _detq(model: Path, source: str, limit: int, options: dict[str, Any]) -> dict[str, Order]:
    """Bare inference as ``detq bench`` measures it, and the pipeline from file to boxes."""
    import detq  # noqa: PLC0415 - start-up is part of what is measured
    from detq.data.frames import read_frames  # noqa: PLC0415

    directory, rect = options["cache_dir"], options.pop("rect")
    options = {**options, "cache_dir": None if directory is None else Path(directory)}
    chosen = detq.RuntimeOptions(**options)
    detector = detq.detector(model, options=chosen, rect=rect)
    first = next(iter(read_frames(source)))
    detector.detect(first)
    size_hw = detector.trimmed((first.shape[0], first.shape[1])).size_hw
    network = detector.network_of(size_hw)
    noise = np.random.default_rng(0).integers(0, 256, (1, *size_hw, 3), np.uint8)

    def bare() -> dict[str, Any]:
        started_s, images = time.perf_counter(), 0
        while time.perf_counter() - started_s < BURST_S:
            batch = 8 * network.requests
            network.infer_all([noise] * batch)
            images += batch
        return {"images": images, "seconds": time.perf_counter() - started_s}

    def end_to_end() -> dict[str, Any]:
        started_s, images, boxes = time.perf_counter(), 0, 0
        for frame in detq.detect_stream(detector, islice(read_frames(source), limit)):
            images += 1
            boxes += len(frame.detections)
        return {"images": images, "boxes": boxes, "seconds": time.perf_counter() - started_s}

    def stages() -> dict[str, Any]:
        spent, images = _core_seconds(detector, islice(read_frames(source), limit))
        core_ms = {stage: 1000 * seconds / images for stage, seconds in spent.items()}
        return {"images": images, "core_ms": core_ms}

    return {"bare": bare, "end_to_end": end_to_end, "stages": stages}


def _core_seconds(detector: Detector, frames: Iterator[ImageBGR]) -> tuple[dict[str, float], int]:
    """What each stage from file to boxes takes of all cores together, and of how many images."""
    spent, count = defaultdict[str, float](float), 0
    requests: dict[CompiledGraph, list[ov.InferRequest]] = {}

    def timed(stage: str, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        before_s = time.process_time()
        done = [work(item) for item in items]
        spent[stage] += time.process_time() - before_s
        return done

    def inferred(item: tuple[int, PlacedImage]) -> Job:
        number, placed = item
        job = detector.start(placed, requests[placed.network][number])
        job.wait()
        return job

    while images := timed("read", lambda image: image, islice(frames, AT_ONCE)):
        count += len(images)
        placed = timed("letterbox", detector.place, images)
        for network in {one.network for one in placed} - set(requests):
            requests[network] = [network.create_request() for _ in range(AT_ONCE)]
        jobs = timed("network", inferred, enumerate(placed))
        timed("boxes", lambda job: job.finish(), jobs)
    return dict(spent), count


def _ultralytics(model: Path, source: str, limit: int, options: dict[str, Any]) -> dict[str, Order]:
    """The same exported directory through Ultralytics' predict, with detq's thresholds."""
    from ultralytics import YOLO  # noqa: PLC0415 - a peer, only where a user has installed it

    yolo = YOLO(model, task="detect")

    def end_to_end() -> dict[str, Any]:
        started_s, images, boxes = time.perf_counter(), 0, 0
        found = yolo.predict(source, stream=True, conf=0.25, iou=0.45, verbose=False)
        for result in islice(found, limit):
            images += 1
            boxes += len(result.boxes)
        return {"images": images, "boxes": boxes, "seconds": time.perf_counter() - started_s}

    next(iter(yolo.predict(source, stream=True, verbose=False)))
    return {"end_to_end": end_to_end}


def _onnxruntime(model: Path, source: str, limit: int, options: dict[str, Any]) -> dict[str, Order]:
    """Bare inference, one image after another."""
    import onnxruntime  # noqa: PLC0415 - a peer, only where a user has installed it

    session_options = onnxruntime.SessionOptions()
    if options.get("threads"):
        session_options.intra_op_num_threads = options["threads"]
    session = onnxruntime.InferenceSession(
        model, session_options, providers=["CPUExecutionProvider"]
    )
    entry = session.get_inputs()[0]
    noise = np.random.default_rng(0).random(entry.shape, np.float32)
    session.run(None, {entry.name: noise})

    def bare() -> dict[str, Any]:
        started_s, images = time.perf_counter(), 0
        while time.perf_counter() - started_s < BURST_S:
            session.run(None, {entry.name: noise})
            images += 1
        return {"images": images, "seconds": time.perf_counter() - started_s}

    return {"bare": bare}


def _benchmark_app(
    model: Path, source: str, limit: int, options: dict[str, Any]
) -> dict[str, Order]:
    """OpenVINO's own tool, anew for every order. It takes a hint or numbers, not both."""
    from openvino.tools.benchmark.main import main as benchmark  # noqa: PLC0415

    threads, requests, precision = (
        options[name] for name in ("threads", "requests", "float_precision")
    )
    tuning = ["-hint", "latency" if requests == 1 else "throughput"]
    if threads is not None:
        tuning = ["-hint", "none", "-nthreads", str(threads), "-nstreams", str(threads)]
    arguments = ["-m", str(model), "-t", BENCHMARK_S, "-infer_precision", precision, *tuning]
    arguments += ["-json_stats", "-report_type", "no_counters", "-report_folder", str(model.parent)]

    def bare() -> dict[str, Any]:
        sys.argv = ["benchmark_app", *arguments]
        benchmark()
        report = (model.parent / "benchmark_report.json").read_text(encoding="utf-8")
        throughput = float(json.loads(report)["execution_results"]["throughput"])
        return {"images": throughput, "seconds": 1.0}

    return {"bare": bare}


PROGRAMS = {
    "detq": _detq,
    "ultralytics": _ultralytics,
    "onnxruntime": _onnxruntime,
    "benchmark_app": _benchmark_app,
}

if __name__ == "__main__":
    _, name, model_path, source_path, frames, chosen_options = sys.argv
    main(name, Path(model_path), source_path, int(frames), json.loads(chosen_options))
