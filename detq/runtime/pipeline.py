"""Images through a detector, several at once: reading, inference and post-processing overlap.

A thread reads and letterboxes ahead of the caller, OpenVINO's threads infer, and the caller's
post-processes. Every queue is bounded, and order is kept.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from threading import Condition, Thread

import openvino as ov

from detq.data.images import ImageBGR
from detq.errors import RuntimeTimeoutError
from detq.records import Detections
from detq.runtime.detector import CompiledGraph, Detector, Job, PlacedImage

AHEAD = 4
"""Images that are read and wait for inference, unless only the newest is wanted."""
_JOIN_S = 2.0


@dataclass(frozen=True)
class Frame:
    """An image that went through, and the milliseconds that each stage took.

    ``index`` is the image's number in the source, from 0; it has gaps where images were dropped.
    ``read_ms`` is how long the source took to hand the image out, ``place_ms`` its letterbox,
    ``infer_ms`` the network, ``post_ms`` post-processing; ``age_ms`` the time from reading the
    image to its detections, waiting included.
    """

    index: int
    image: ImageBGR
    detections: Detections
    read_ms: float
    place_ms: float
    infer_ms: float
    post_ms: float
    age_ms: float


def detect_stream(
    detector: Detector,
    images_bgr: Iterable[ImageBGR],
    *,
    newest_only: bool = False,
    patience_s: float | None = None,
) -> Generator[Frame]:
    """Each image with its detections, in order; a result is handed out as soon as it is there.

    The source is read by another thread, which waits for the caller; with ``newest_only`` it never
    waits, and an image that inference had no time for gives way to a newer one. ``patience_s`` is
    how long to wait for an image, None for ever.

    Raises whatever the source raises in that image's turn, DataError for an array that is no image,
    RuntimeTimeoutError if the source or inference takes too long. A generator given as source is
    closed in the end.
    """
    feed = _Feed(detector, images_bgr, limit=1 if newest_only else AHEAD, replaces=newest_only)
    idle = defaultdict[CompiledGraph, list[ov.InferRequest]](list)
    busy: deque[tuple[_Waiting, Job]] = deque()
    try:
        while True:
            waiting = feed.poll() if busy else feed.wait(patience_s)
            if waiting is not None:
                network = waiting.placed.network
                request = idle[network].pop() if idle[network] else network.create_request()
                busy.append((waiting, detector.start(waiting.placed, request)))
            if busy and (waiting is None or len(busy) > waiting.placed.network.requests):
                yield _finish(*busy[0])
                done, job = busy.popleft()
                idle[done.placed.network].append(job.request)
            elif waiting is None:
                return
    finally:
        feed.stop()
        for _, job in busy:  # the caller stopped early, or something failed
            job.request.cancel()


def _finish(waiting: _Waiting, job: Job) -> Frame:
    job.wait()
    started_s = time.perf_counter()
    detections = job.finish()
    finished_s = time.perf_counter()
    return Frame(
        index=waiting.index,
        image=waiting.image,
        detections=detections,
        read_ms=waiting.read_ms,
        place_ms=waiting.place_ms,
        infer_ms=job.request.latency,
        post_ms=(finished_s - started_s) * 1000,
        age_ms=(finished_s - waiting.read_s) * 1000,
    )


@dataclass(frozen=True)
class _Waiting:
    """An image that is ready for inference."""

    index: int
    image: ImageBGR
    placed: PlacedImage
    read_s: float
    read_ms: float
    place_ms: float


class _Feed:
    """The thread that reads ahead, and the at most ``limit`` images between it and its caller."""

    def __init__(
        self, detector: Detector, images_bgr: Iterable[ImageBGR], *, limit: int, replaces: bool
    ) -> None:
        self._detector = detector
        self._images = images_bgr
        self._limit = limit
        self._replaces = replaces
        self._ready: deque[_Waiting] = deque(maxlen=limit)
        self._changed = Condition()
        self._error: BaseException | None = None
        self._ended = False
        self._stopped = False
        self._thread = Thread(target=self._run, name="read", daemon=True)
        self._thread.start()

    def poll(self) -> _Waiting | None:
        """The next image if it is there already."""
        with self._changed:
            waiting = self._ready.popleft() if self._ready else None
            self._changed.notify_all()
            return waiting

    def wait(self, patience_s: float | None) -> _Waiting | None:
        """The next image; None if the source has ended. Raises what the source raised."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._ready) or self._ended, patience_s):
                raise RuntimeTimeoutError(
                    f"no image for {patience_s:g} s: the camera or stream has stopped; check it"
                )
            if self._error is not None and not self._ready:
                raise self._error
        return self.poll()

    def stop(self) -> None:
        """End the thread; one that its source keeps waiting is left behind after a while."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            self._read_all()
        except BaseException as error:  # raised again in the caller's thread
            self._error = error
        finally:
            if isinstance(self._images, Generator):
                self._images.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _read_all(self) -> None:
        asked_s = time.perf_counter()
        for index, image in enumerate(self._images):
            read_s = time.perf_counter()
            placed = self._detector.place(image)
            waiting = _Waiting(
                index=index,
                image=image,
                placed=placed,
                read_s=read_s,
                read_ms=(read_s - asked_s) * 1000,
                place_ms=(time.perf_counter() - read_s) * 1000,
            )
            with self._changed:
                if not self._replaces:
                    self._changed.wait_for(lambda: self._has_room or self._stopped)
                if self._stopped:
                    return
                self._ready.append(waiting)
                self._changed.notify_all()
            asked_s = time.perf_counter()

    @property
    def _has_room(self) -> bool:
        return len(self._ready) < self._limit
