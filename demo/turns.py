"""Whose frame is next: every visitor in turn, one frame each, the newest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Condition
from typing import Generic, TypeVar

Visitor = TypeVar("Visitor", bound=Hashable)
Frame = TypeVar("Frame")


class Turns(Generic[Visitor, Frame]):
    """Frames that wait for workers. Any thread may call anything.

    A visitor has at most one frame waiting, which a newer one replaces, and at most one in work,
    from :meth:`take` to :meth:`finish`. Among those who wait, who had a turn longest ago is next.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[Visitor, Frame | None] = OrderedDict()  # next in turn first
        self._busy: set[Visitor] = set()
        self._changed = Condition()
        self._closed = False

    def join(self, visitor: Visitor) -> None:
        """Take part, at the end of the queue."""
        with self._changed:
            self._waiting[visitor] = None

    def leave(self, visitor: Visitor) -> None:
        """No more part; a frame that waits is forgotten."""
        with self._changed:
            self._waiting.pop(visitor, None)
            self._busy.discard(visitor)

    def offer(self, visitor: Visitor, frame: Frame) -> bool:
        """Let a frame wait; True if it replaced one. Does nothing for who has left."""
        with self._changed:
            if visitor not in self._waiting:
                return False
            replaced = self._waiting[visitor] is not None
            self._waiting[visitor] = frame
            self._changed.notify()
            return replaced

    def take(self) -> tuple[Visitor, Frame] | None:
        """The next frame to work on, as soon as there is one; None once closed."""
        with self._changed:
            while not self._closed:
                for visitor, frame in self._waiting.items():
                    if frame is not None and visitor not in self._busy:
                        self._waiting[visitor] = None
                        self._waiting.move_to_end(visitor)
                        self._busy.add(visitor)
                        return visitor, frame
                self._changed.wait()
            return None

    def finish(self, visitor: Visitor) -> None:
        """The visitor has its answer, and may have another turn."""
        with self._changed:
            self._busy.discard(visitor)
            self._changed.notify()

    def close(self) -> None:
        """Let every :meth:`take` return."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
