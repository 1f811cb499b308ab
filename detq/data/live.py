"""Where pictures come from: a camera, a stream, a video file, a picture or a folder of them."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Protocol, cast

import numpy as np

from detq.data.images import ImageBGR
from detq.data.remote import without_password
from detq.data.video import frame_rate, read_frames
from detq.errors import DetqError
from detq.opencv import cv2

Say = Callable[[str | None], None]
"""Called with what a viewer should know now, None when all is well again."""
Wait = Callable[[float], bool]
"""Sleeps for seconds; True if the show is over and the source should end."""

LIVE_FRAMES_PER_S = 30.0
"""Of whatever states no rate of its own."""
HOLD_S = 2.0
"""How long each picture of a folder is shown."""
FIRST_RETRY_S, SLOWEST_RETRY_S = 0.5, 8.0
GIVE_UP_S = 60.0
"""A stream that stays away for so long is an error."""
_LOOK_S, _JOIN_S = 0.5, 2.0
OPEN_TIMEOUT_MS = READ_TIMEOUT_MS = 5000


class Source(Protocol):
    """Pictures, one after another. ``is_live`` ones cannot be held up while nobody looks."""

    @property
    def title(self) -> str:
        """What it is called on the screen."""

    @property
    def is_live(self) -> bool:
        """True if pictures come whether or not they are taken."""

    @property
    def frames_per_s(self) -> float:
        """How fast it goes."""

    def frames(self, say: Say, wait: Wait) -> Generator[ImageBGR]:
        """Uint8 [H, W, 3] BGR each. Raises DetqError if there are no more to be had."""


@dataclass(frozen=True)
class Camera:
    """A camera of this machine, by its number."""

    index: int
    is_live = True
    frames_per_s = LIVE_FRAMES_PER_S

    @property
    def title(self) -> str:
        """``camera 0``."""
        return f"camera {self.index}"

    def frames(self, say: Say, wait: Wait) -> Generator[ImageBGR]:
        """Until the camera goes away, which is a DetqError."""
        capture = cv2.VideoCapture(self.index)
        try:
            if not capture.isOpened():
                raise DetqError(
                    f"{self.title}: cannot be opened; connect one, close other programs that use "
                    "it, or name a video, pictures or a stream instead"
                )
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest, not the oldest
            yield from _read(capture)
        finally:
            capture.release()
        raise DetqError(f"{self.title}: delivers no more pictures; check its cable")


@dataclass(frozen=True)
class Stream:
    """A stream on the network (RTSP, HTTP, …); opened again whenever it drops."""

    url: str
    is_live = True
    frames_per_s = LIVE_FRAMES_PER_S

    @property
    def title(self) -> str:
        """The address, without name and password."""
        return re.split(r"[?#]", without_password(self.url))[0]

    def frames(self, say: Say, wait: Wait) -> Generator[ImageBGR]:
        """For ever. Raises DetqError if it cannot be opened at first, or stays away too long."""
        capture = self._open()
        if capture is None:
            raise DetqError(f"{self.title}: cannot be opened; check the address and network")
        while capture is not None:
            try:
                yield from _read(capture)
            finally:
                capture.release()
            capture = self._reopen(say, wait)

    def _reopen(self, say: Say, wait: Wait) -> cv2.VideoCapture | None:
        """The stream once it is back; None if the show is over."""
        lost_s, pause_s = time.monotonic(), FIRST_RETRY_S
        while time.monotonic() - lost_s < GIVE_UP_S:
            say(f"{self.title} dropped: trying again in {pause_s:g} s")
            if wait(pause_s):
                return None
            say(f"{self.title} dropped: connecting")
            capture = self._open()
            if capture is not None:
                say(None)
                return capture
            pause_s = min(2 * pause_s, SLOWEST_RETRY_S)
        raise DetqError(f"{self.title}: dropped, and not back for {GIVE_UP_S:g} s")

    def _open(self) -> cv2.VideoCapture | None:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS]
        limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
        capture = cv2.VideoCapture(cast(str, os.fsencode(self.url)), cv2.CAP_FFMPEG, limits)
        return capture if capture.isOpened() else None


@dataclass(frozen=True)
class Clip:
    """A video file, a picture or a folder of pictures, shown as fast as it was taken."""

    path: Path
    repeats: bool
    is_live = False

    @property
    def title(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def frames_per_s(self) -> float:
        """What the file states."""
        return frame_rate(self.path) or LIVE_FRAMES_PER_S

    def every_frame(self) -> Iterator[ImageBGR]:
        """Each once, as fast as they can be had; a picture counts for :data:`HOLD_S`."""
        is_video = frame_rate(self.path) is not None
        copies = 1 if is_video else round(HOLD_S * LIVE_FRAMES_PER_S)
        for image in read_frames(self.path):
            for _ in range(copies):
                yield image

    def frames(self, say: Say, wait: Wait) -> Generator[ImageBGR]:
        """In the file's own time; from the start again if it ``repeats``."""
        period_s, due_s = 1 / self.frames_per_s, time.monotonic()
        while True:
            for image in self.every_frame():
                if wait(due_s - time.monotonic()):
                    return
                yield image
                due_s = max(due_s + period_s, time.monotonic())  # late: no rush to catch up
            if not self.repeats:
                return


def open_source(text: str, *, repeats: bool = True) -> Source:
    """What ``--source`` names: a camera's number, an address, or a file or folder.

    Raises DetqError for a file that is no video and no picture.
    """
    device = re.fullmatch(r"(?:/dev/video)?(\d+)", text)
    if device:
        return Camera(int(device[1]))
    if "://" in text:
        return Stream(text)
    clip = Clip(Path(text), repeats)
    first = iter(read_frames(clip.path))  # says at once what is wrong with it
    next(first, None)
    return clip


def watch(
    sources: Sequence[Source],
    *,
    every: int = 1,
    end_s: float | None = None,
    most: int | None = None,
    say: Say = lambda notice: None,
) -> Generator[Shot]:
    """The newest pictures of several sources, in turns, so that none waits for another.

    A picture that was not taken before a newer one came is gone. Of each source every ``every``-th
    picture is offered, ``most`` of them are taken, for ``end_s`` seconds in all. A source that
    fails says so as its last shot; the others go on. Of sources of one title the second is called
    ``title (2)``.
    """
    titles = _told_apart([source.title for source in sources])
    looks = [
        _Look(source, titles[number], number, every, say) for number, source in enumerate(sources)
    ]
    changed, over = Condition(), Event()
    started_s = time.monotonic()
    threads = [
        Thread(target=look.run, args=(changed, over), name="source", daemon=True) for look in looks
    ]
    try:
        for thread in threads:
            thread.start()
        turn = 0
        while True:
            with changed:
                order = (looks[(turn + step) % len(looks)] for step in range(len(looks)))
                look = next((one for one in order if one.shot is not None), None)
                left_s = _LOOK_S if end_s is None else started_s + end_s - time.monotonic()
                if left_s <= 0 or all(one.is_done for one in looks):
                    return
                if look is None:
                    changed.wait(min(left_s, _LOOK_S))
                    continue
                shot, look.shot = look.shot, None
                look.taken += 1
            turn = look.number + 1
            if shot is not None and (most is None or look.taken <= most):
                yield replace(shot, time_s=shot.time_s - started_s)
            if most is not None and all(one.is_done or one.taken >= most for one in looks):
                return
    finally:
        over.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join(_JOIN_S)


def _told_apart(titles: Sequence[str]) -> list[str]:
    """Cameras of one recorder differ in what is hidden of their addresses."""
    seen: Counter[str] = Counter()
    apart = []
    for title in titles:
        seen[title] += 1
        apart.append(title if seen[title] == 1 else f"{title} ({seen[title]})")
    return apart


@dataclass(frozen=True)
class Shot:
    """A picture of a source, the ``index``-th that it delivered, ``time_s`` after the beginning; or
    why the source has no more.
    """

    source: str
    index: int
    time_s: float
    image: ImageBGR | DetqError


class _Look:
    """The newest picture of one source; its thread runs :meth:`run`."""

    def __init__(self, source: Source, title: str, number: int, every: int, say: Say) -> None:
        self.number = number
        self.shot: Shot | None = None
        self.taken = 0
        self.ended = False
        self._source, self._title, self._every, self._say = source, title, every, say

    @property
    def is_done(self) -> bool:
        """True if there is nothing left to take, an error neither."""
        return self.ended and self.shot is None

    def run(self, changed: Condition, over: Event) -> None:
        frames = self._source.frames(self._say, over.wait)
        index = 0
        try:
            for image in frames:
                if over.is_set():
                    return
                if index % self._every == 0:
                    self._show(index, image, changed)
                index += 1
        except DetqError as error:
            self._show(index, error, changed)
        finally:
            frames.close()
            with changed:
                self.ended = True
                changed.notify_all()

    def _show(self, index: int, image: ImageBGR | DetqError, changed: Condition) -> None:
        with changed:
            self.shot = Shot(self._title, index, time.monotonic(), image)
            changed.notify_all()


def _read(capture: cv2.VideoCapture) -> Iterator[ImageBGR]:
    while True:
        found, frame = capture.read()
        if not found:
            return
        yield np.asarray(frame, np.uint8)
