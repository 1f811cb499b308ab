"""Threads that answer visitors' frames."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from threading import Thread

import detq

from .contenders import Contender
from .messages import RefusedError, Settings, Upload, decode, error_text, result_text
from .turns import Turns
from .visitor import Visitor

THREADS = 2
"""One decodes the next picture while the other's is in the network."""


class Workers:
    """Take frames in turn, and hand the answers to the event loop. A context manager."""

    def __init__(self, contenders: Sequence[Contender]) -> None:
        self.turns: Turns[Visitor, Upload] = Turns()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._contenders = contenders
        self._threads = [
            Thread(target=self._work, name=f"worker {n}", daemon=True) for n in range(THREADS)
        ]

    def __enter__(self) -> Workers:
        for contender in self._contenders:
            _ = contender.alone  # compiled before the first visitor comes
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.turns.close()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (turn := self.turns.take()) is not None:
            visitor, upload = turn
            text = self._answer(upload, visitor.settings, visitor.tracks)
            try:
                if self.loop is not None:
                    self.loop.call_soon_threadsafe(visitor.deliver, text)
            except RuntimeError:  # the loop is closed: nobody is there any more
                return

    def _answer(self, upload: Upload, settings: Settings, tracks: detq.Tracks | None) -> str:
        started_s = time.perf_counter()
        try:
            image = decode(upload.jpeg)
            decoded_s = time.perf_counter()
            compiled = self._contenders[settings.model].alone
            found = compiled.tuned(confidence=settings.confidence, iou=settings.iou).detect(image)
            ids = [] if tracks is None else tracks.update(found, time.monotonic())[1]
        except (RefusedError, detq.DetqError) as error:
            return error_text(str(error), upload)
        return result_text(
            upload,
            settings,
            found,
            ids,
            size_wh=[image.shape[1], image.shape[0]],
            decode_ms=round((decoded_s - started_s) * 1000, 2),
            detect_ms=round((time.perf_counter() - decoded_s) * 1000, 2),
        )
