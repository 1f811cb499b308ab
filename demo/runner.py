"""A model at work on the newest picture, in a thread of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Event, Thread

import detq

from .contenders import Contender, title
from .meter import Meter
from .newest import Newest


@dataclass(frozen=True)
class Thresholds:
    """Least score of a detection, and the overlap above which two boxes are one object; 0..1."""

    confidence: float
    iou: float


@dataclass(frozen=True)
class Result:
    """The newest picture with its detections, and pictures per second up to it."""

    frame: detq.Frame
    frames_per_s: float


class Runner:
    """Runs a contender until it is stopped or the source ends; ``result`` is the newest.

    ``title`` says what is running.
    ``count`` grows with each result; ``error`` is what ended it early. With ``beside`` it takes
    half of the machine.
    """

    def __init__(
        self, contender: Contender, newest: Newest, *, beside: bool, thresholds: Thresholds
    ) -> None:
        self.contender = contender
        self.title = contender.name
        self.result: Result | None = None
        self.count = 0
        self.error: BaseException | None = None
        self._beside = beside
        self._newest = newest
        self._thresholds = thresholds
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
        self._detector = _tuned(compiled, self._thresholds)
        self.title = title(compiled)
        meter = Meter()
        images = self._newest.images(self._stopped)
        for frame in detq.detect_stream(self._detector, images, newest_only=True):
            self.result = Result(frame, meter.tick(time.monotonic()))
            self.count += 1
            if self._stopped.is_set():
                return


def _tuned(detector: detq.Detector, thresholds: Thresholds) -> detq.Detector:
    return detector.tuned(confidence=thresholds.confidence, iou=thresholds.iou)
