"""The server's own sources as a stream of JPEG pictures, boxes drawn in (multipart, "MJPEG")."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from threading import Lock

import cv2

import detq
from detq import ImageBGR, Newest, Source

from .contenders import Contender
from .overlay import Status, compose
from .runner import Runner, Thresholds
from .sight import Following
from .stage import strips

BOUNDARY = "picture"
MEDIA_TYPE = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
JPEG_QUALITY = 85
LOOK_S = 0.02


class LiveView:
    """Runs each model on the sources while somebody watches. Raises DetqError if all are dead."""

    def __init__(
        self,
        contenders: Sequence[Contender],
        sources: Sequence[Source],
        thresholds: Thresholds,
        following: Following,
    ) -> None:
        self._contenders = contenders
        self._thresholds = thresholds
        self._following = following
        self._newest = Newest(sources)
        self._newest.wait()
        self._runners: dict[int, Runner] = {}
        self._viewers: Counter[int] = Counter()
        self._lock = Lock()

    @property
    def title(self) -> str:
        """What the source is called, or how many there are."""
        titles = list(self._newest.sources)
        return titles[0] if len(titles) == 1 else f"{len(titles)} sources"

    @property
    def viewers(self) -> int:
        """How many are watching."""
        return self._viewers.total()

    async def pictures(self, model: int) -> AsyncIterator[bytes]:
        """Parts of a multipart answer, the newest picture each, until all sources end.

        Who takes them slowly misses some.
        """
        runner = await asyncio.to_thread(self._enter, model)
        seen: tuple[object, ...] = ()
        try:
            while True:
                has_ended, state = runner.has_ended, (runner.count, self._newest.notices)
                if state == seen or not runner.results:
                    if has_ended:
                        return
                    await asyncio.sleep(LOOK_S)
                    continue
                seen = state
                jpeg = await asyncio.to_thread(self._jpeg, runner)
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}"
                yield head.encode() + b"\r\n\r\n" + jpeg + b"\r\n"
        finally:
            await asyncio.shield(asyncio.to_thread(self._leave, model))

    def figures(self, model: int) -> dict[str, float] | None:
        """Of the newest picture of each source, together; None while nobody watches.

        ``fps`` are pictures per second, ``latency_ms`` the age of the oldest when its boxes were
        there, ``detect_ms`` the longest time in the model, ``count`` the objects.
        """
        with self._lock:
            runner = self._runners.get(model)
        results = [] if runner is None else list(runner.results.values())
        if not results:
            return None
        frames = [result.frame for result in results]
        return {
            "fps": sum(result.frames_per_s for result in results),
            "latency_ms": max(each.age_ms for each in frames),
            "detect_ms": max(each.place_ms + each.infer_ms + each.post_ms for each in frames),
            "count": sum(len(each.detections) for each in frames),
        }

    def close(self) -> None:
        """Let go of the source."""
        for runner in self._runners.values():
            runner.stop()
        self._newest.close()

    def _enter(self, model: int) -> Runner:
        with self._lock:
            self._viewers[model] += 1
            if model not in self._runners:
                self._runners[model] = Runner(
                    self._contenders[model],
                    self._newest,
                    beside=False,
                    thresholds=self._thresholds,
                    following=self._following,
                )
            return self._runners[model]

    def _leave(self, model: int) -> None:
        with self._lock:
            self._viewers[model] -= 1
            if not self._viewers[model]:
                self._runners.pop(model).stop()

    def _jpeg(self, runner: Runner) -> bytes:
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        return cv2.imencode(".jpg", self._picture(runner), options)[1].tobytes()

    def _picture(self, runner: Runner) -> ImageBGR:
        """All sources in a grid; one alone as it is."""
        if len(self._newest.sources) > 1:
            status = Status(confidence=self._thresholds.confidence)
            return compose(strips([runner], self._newest), status)
        (result,) = runner.results.values()
        frame, class_names = result.frame, runner.contender.class_names
        return detq.draw_detections(frame.image, frame.detections, class_names, result.track_ids)
