"""One reader of a source, and any number of takers who want its newest picture."""

from __future__ import annotations

import time
from collections.abc import Generator
from threading import Condition, Event, Thread

import detq
from detq import ImageBGR, Source

PATIENCE_S = 15.0
"""A live source that is silent for so long, and says nothing, has vanished."""
_LOOK_S = 0.5


class Newest:
    """The newest picture of a source, which a thread of its own reads.

    A picture that nobody took in time is gone: takers of any speed see what is going on now.
    ``notice`` is what the source has to say, None if all is well.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.notice: str | None = None
        self._changed = Condition()
        self._image: ImageBGR | None = None
        self._number = 0
        self._heard_s = time.monotonic()
        self._paused = False
        self._over = Event()
        self._ended = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name="source", daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """True if no more pictures will come, and none is waiting to be read."""
        return self._ended

    def pause(self, paused: bool) -> None:
        """Hold the picture. A file waits; a camera goes on unseen."""
        with self._changed:
            self._paused = paused
            self._changed.notify_all()

    def images(self, stopped: Event) -> Generator[ImageBGR]:
        """Each newer picture for one taker, until the source ends or ``stopped`` is set.

        Raises what the source raised; DetqError if a live source has vanished. Whoever sets
        ``stopped`` calls :meth:`wake`.
        """
        seen = 0
        while True:
            with self._changed:
                if stopped.is_set():
                    return
                if self._number != seen:
                    seen, image = self._number, self._image
                elif self._ended:
                    if self._error is not None:
                        raise self._error
                    return
                else:
                    self._check_alive()
                    self._changed.wait(_LOOK_S)
                    continue
            if image is not None:
                yield image

    def first(self) -> ImageBGR:
        """Wait for a picture. Raises DetqError if none comes."""
        for image in self.images(Event()):
            return image
        raise detq.DetqError(f"{self.source.title}: showed nothing")

    def wake(self) -> None:
        """Let takers see that they were stopped."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """End the reader; one that its camera keeps waiting is left behind after a while."""
        self._over.set()
        self.wake()
        self._thread.join(2.0)

    def _check_alive(self) -> None:
        silent_s = time.monotonic() - self._heard_s
        if self.source.is_live and self.notice is None and silent_s > PATIENCE_S:
            raise detq.DetqError(
                f"{self.source.title}: no picture for {PATIENCE_S:g} s; check that it still works"
            )

    def _run(self) -> None:
        frames = self.source.frames(self._say, self._over.wait)
        try:
            for image in frames:
                if not self._publish(image):
                    break
        except BaseException as error:  # raised again where pictures are taken
            self._error = error
        finally:
            frames.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _publish(self, image: ImageBGR) -> bool:
        """False if the show is over."""
        with self._changed:
            self._heard_s = time.monotonic()
            while self._paused and not self.source.is_live and not self._over.is_set():
                self._changed.wait(_LOOK_S)
            if not self._paused:
                self._image, self._number = image, self._number + 1
                self._changed.notify_all()
        return not self._over.is_set()

    def _say(self, notice: str | None) -> None:
        self.notice = notice
        self._heard_s = time.monotonic()
