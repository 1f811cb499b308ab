"""The newest picture of each of several sources, in turns."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, count
from threading import Condition, Event, Thread

from detq.data.images import ImageBGR
from detq.data.live import Source
from detq.errors import DetqError

PATIENCE_S = 15.0
"""A live source that is silent for so long, and says nothing, has vanished."""
_LOOK_S, _JOIN_S = 0.5, 2.0


@dataclass(frozen=True)
class Shot:
    """A picture of a source, the ``index``-th that it delivered, ``time_s`` after the beginning; or
    why the source has no more.
    """

    source: str
    index: int
    time_s: float
    image: ImageBGR | DetqError


def watch(
    sources: Sequence[Source],
    *,
    every: int = 1,
    end_s: float | None = None,
    most: int | None = None,
) -> Generator[Shot]:
    """What :meth:`Newest.shots` gives, of each source every ``every``-th picture; nothing runs
    before it is asked for the first.
    """
    with closing(Newest(sources, every=every)) as newest:
        yield from newest.shots(end_s=end_s, most=most)


class Newest:
    """The newest picture of each of several sources, which threads read, for any number of takers.

    A picture that was not taken before a newer one came is gone: takers of any speed see what is
    going on now. Of each source every ``every``-th picture is offered. A source that fails ends;
    the others go on.
    """

    def __init__(self, sources: Sequence[Source], *, every: int = 1) -> None:
        self.sources = dict(
            zip(_told_apart([source.title for source in sources]), sources, strict=True)
        )
        self._began_s = time.monotonic()
        self._changed, self._over = Condition(), Event()
        self._paused = False
        self._feeds = [_Feed(title, source, every) for title, source in self.sources.items()]
        self._threads = [
            Thread(target=self._read, args=(feed,), name="source", daemon=True)
            for feed in self._feeds
        ]
        for thread in self._threads:
            thread.start()

    @property
    def notices(self) -> dict[str, str]:
        """What sources have to say, by title: why they ended, or what is the matter now."""
        said = {feed.title: feed.notice for feed in self._feeds}
        said |= {title: str(error) for title, error in self.errors.items()}
        return {title: notice for title, notice in said.items() if notice is not None}

    @property
    def errors(self) -> dict[str, DetqError]:
        """Why sources failed, by title."""
        images = {feed.title: feed.shot.image for feed in self._feeds if feed.shot is not None}
        return {title: image for title, image in images.items() if isinstance(image, DetqError)}

    @property
    def now_s(self) -> float:
        """Seconds on the clock of :attr:`Shot.time_s`."""
        return time.monotonic() - self._began_s

    def pause(self, paused: bool) -> None:
        """Hold the pictures. Files wait; cameras go on unseen."""
        with self._changed:
            self._paused = paused
            self._changed.notify_all()

    def shots(
        self,
        stopped: Event | None = None,
        *,
        end_s: float | None = None,
        most: int | None = None,
    ) -> Generator[Shot]:
        """For one taker each newer picture, sources in turns, so that none waits for another.

        Until every source has ended, ``most`` shots of each are taken, ``end_s`` have passed since
        the beginning or ``stopped`` is set; whoever sets that calls :meth:`wake`. A source that
        fails says so as its last shot, as does a live one that has vanished.
        """
        seen, turn = [0] * len(self._feeds), 0
        taken = [0] * len(self._feeds)
        while True:
            with self._changed:
                left_s = _LOOK_S if end_s is None else end_s - self.now_s
                going = [
                    number
                    for number, feed in enumerate(self._feeds)
                    if (most is None or taken[number] < most)
                    and not (feed.has_ended and feed.count == seen[number])
                ]
                if not going or left_s <= 0 or (stopped is not None and stopped.is_set()):
                    return
                going.sort(key=lambda number: (number < turn, number))  # whose turn it is first
                new = next((n for n in going if self._feeds[n].count != seen[n]), None)
                if new is None:
                    self._end_vanished()
                    self._changed.wait(min(left_s, _LOOK_S))
                    continue
                feed = self._feeds[new]
                seen[new], shot = feed.count, feed.shot
                if feed.fault is not None:
                    raise feed.fault
            taken[new], turn = taken[new] + 1, new + 1
            if shot is not None:
                yield shot

    def wait(self) -> None:
        """Until there is a picture. Raises DetqError if none will come."""
        for shot in self.shots():
            if not isinstance(shot.image, DetqError):
                return
        for error in self.errors.values():
            raise error
        raise DetqError(f"{', '.join(self.sources)}: showed nothing")

    def wake(self) -> None:
        """Let takers see that they were stopped."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """End the readers; one that its camera keeps waiting is left behind after a while."""
        self._over.set()
        self.wake()
        until_s = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(until_s - time.monotonic(), 0))

    def _end_vanished(self) -> None:
        for feed in self._feeds:
            silent = time.monotonic() - feed.heard_s > PATIENCE_S
            if silent and feed.source.is_live and feed.notice is None and not feed.has_ended:
                why = f"no picture for {PATIENCE_S:g} s; check that it still works"
                self._publish(feed, DetqError(f"{feed.title}: {why}"))
                feed.has_ended = True

    def _read(self, feed: _Feed) -> None:
        frames = feed.source.frames(feed.say, self._over.wait)
        try:
            for image in frames:
                self._offer(feed, image)
                if self._over.is_set() or feed.has_ended:
                    break
        except DetqError as error:
            self._publish(feed, error)
        except BaseException as fault:  # raised again where pictures are taken
            feed.fault = fault
            feed.count += 1
        finally:
            frames.close()
            with self._changed:
                feed.has_ended = True
                self._changed.notify_all()

    def _offer(self, feed: _Feed, image: ImageBGR) -> None:
        """Show a picture, unless it is to be left out."""
        with self._changed:
            feed.heard_s = time.monotonic()
            while self._paused and not feed.source.is_live and not self._over.is_set():
                self._changed.wait(_LOOK_S)
            if not self._paused and feed.index % feed.every == 0:
                self._publish(feed, image)
            feed.index += 1

    def _publish(self, feed: _Feed, image: ImageBGR | DetqError) -> None:
        with self._changed:
            if not feed.has_ended:
                feed.shot = Shot(feed.title, feed.index, self.now_s, image)
                feed.count += 1
                self._changed.notify_all()


class _Feed:
    """The newest of one source: ``count`` grows with each ``shot``."""

    def __init__(self, title: str, source: Source, every: int) -> None:
        self.title, self.source, self.every = title, source, every
        self.shot: Shot | None = None
        self.count = self.index = 0
        self.has_ended = False
        self.fault: BaseException | None = None
        self.notice: str | None = None
        self.heard_s = time.monotonic()

    def say(self, notice: str | None) -> None:
        self.notice = notice
        self.heard_s = time.monotonic()


def _told_apart(titles: Iterable[str]) -> list[str]:
    """Cameras of one recorder differ in what is hidden of their addresses."""
    apart: list[str] = []
    for title in titles:
        names = chain([title], (f"{title} ({number})" for number in count(2)))
        apart.append(next(name for name in names if name not in apart))
    return apart
