"""The server's own source as a stream of JPEG pictures, boxes drawn in (multipart, "MJPEG")."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from threading import Lock

import cv2

import detq
from detq import Source

from .contenders import Contender
from .newest import Newest
from .runner import Result, Runner, Thresholds

BOUNDARY = "picture"
MEDIA_TYPE = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
JPEG_QUALITY = 85
LOOK_S = 0.02


class LiveView:
    """Runs each model on the source while somebody watches it. Raises DetqError if it is dead."""

    def __init__(
        self, contenders: Sequence[Contender], source: Source, thresholds: Thresholds
    ) -> None:
        self._contenders = contenders
        self._thresholds = thresholds
        self._newest = Newest(source)
        self._newest.first()
        self._runners: dict[int, Runner] = {}
        self._viewers: Counter[int] = Counter()
        self._lock = Lock()

    @property
    def title(self) -> str:
        """What the source is called."""
        return self._newest.source.title

    @property
    def viewers(self) -> int:
        """How many are watching."""
        return self._viewers.total()

    async def pictures(self, model: int) -> AsyncIterator[bytes]:
        """Parts of a multipart answer, the newest picture each, until the source ends.

        Who takes them slowly misses some.
        """
        runner = await asyncio.to_thread(self._enter, model)
        seen = 0
        try:
            while not runner.has_ended or runner.count != seen:
                if runner.count == seen:
                    await asyncio.sleep(LOOK_S)
                    continue
                seen = runner.count
                if runner.result is None:
                    continue
                jpeg = await asyncio.to_thread(_jpeg, runner.result, runner.contender.class_names)
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}"
                yield head.encode() + b"\r\n\r\n" + jpeg + b"\r\n"
        finally:
            await asyncio.shield(asyncio.to_thread(self._leave, model))

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
                )
            return self._runners[model]

    def _leave(self, model: int) -> None:
        with self._lock:
            self._viewers[model] -= 1
            if not self._viewers[model]:
                self._runners.pop(model).stop()


def _jpeg(result: Result, class_names: tuple[str, ...]) -> bytes:
    frame = result.frame
    picture = detq.draw_detections(frame.image, frame.detections, class_names)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()
