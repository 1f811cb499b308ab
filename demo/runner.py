"""A model at work on the newest pictures of all sources, in a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from threading import Event, Thread
from typing import Any

import detq
from detq import ImageBGR, Newest

from .contenders import Contender, title
from .sight import Following, Result, Sight


@dataclass(frozen=True)
class Thresholds:
    """Least score of a detection, and the overlap above which two boxes are one object; 0..1."""

    confidence: float
    iou: float


class Runner:
    """Runs a contender until it is stopped or all sources have ended, sources in turns.

    ``results`` has the newest of each source that has shown something, by its title; ``title`` says
    what is running. ``count`` grows with each result; ``error`` is what ended it early. With
    ``beside`` it takes half of the machine.
    """

    def __init__(
        self,
        contender: Contender,
        newest: Newest,
        *,
        beside: bool,
        thresholds: Thresholds,
        following: Following,
    ) -> None:
        self.contender = contender
        self.title = contender.name
        self.results: dict[str, Result] = {}
        self.count = 0
        self.error: BaseException | None = None
        self._beside = beside
        self._newest = newest
        self._thresholds = thresholds
        self._following = following
        self._detector: detq.Detector | None = None
        self._stopped = Event()
        self._thread = Thread(target=self._run, name=f"show {contender.name}", daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """True if no more results will come."""
        return not self._thread.is_alive()

    def tune(self, thresholds: Thresholds) -> None:
        """Other thresholds from the next picture on."""
        self._thresholds = thresholds
        if self._detector is not None:
            self._detector.postprocess = _tuned(self._detector, thresholds).postprocess

    def stop(self) -> None:
        """End after the picture in flight."""
        self._stopped.set()
        self._newest.wake()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # the viewer's thread raises it
            self.error = error

    def _work(self) -> None:
        compiled = self.contender.compiled(beside=self._beside)
        self._detector = detector = _tuned(compiled, self._thresholds)
        self.title = title(compiled)
        request_for = cache(lambda network: network.create_request())
        confidence = self._thresholds.confidence
        sights = {
            source_title: Sight(source, self._following, confidence)
            for source_title, source in self._newest.sources.items()
        }
        for shot in self._newest.shots(self._stopped):
            if isinstance(shot.image, detq.DetqError):
                continue  # the viewer's thread shows it
            waited_ms = (self._newest.now_s - shot.time_s) * 1000
            look = partial(_look, detector, request_for, waited_ms)
            sight = sights[shot.source]
            self.results[shot.source] = sight.see(shot.index, shot.time_s, shot.image, look)
            self.count += 1


def _look(
    detector: detq.Detector, request_for: Callable[[Any], Any], waited_ms: float, image: ImageBGR
) -> detq.Frame:
    """What is found in a picture that is so old already, stage by stage."""
    began_s = time.perf_counter()
    placed = detector.place(image)
    placed_s = time.perf_counter()
    job = detector.start(placed, request_for(placed.network))
    job.wait()
    inferred_s = time.perf_counter()
    found = job.finish()
    ended_s = time.perf_counter()
    return detq.Frame(
        index=0,
        image=image,
        detections=found,
        read_ms=0.0,
        place_ms=(placed_s - began_s) * 1000,
        infer_ms=job.request.latency,
        post_ms=(ended_s - inferred_s) * 1000,
        age_ms=waited_ms + (ended_s - began_s) * 1000,
    )


def _tuned(detector: detq.Detector, thresholds: Thresholds) -> detq.Detector:
    return detector.tuned(confidence=thresholds.confidence, iou=thresholds.iou)
