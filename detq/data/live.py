"""Where pictures come from that cannot be held up: a camera, a stream."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from detq.data.images import ImageBGR
from detq.data.remote import without_password
from detq.errors import DetqError
from detq.opencv import cv2

Say = Callable[[str | None], None]
"""Called with what a viewer should know now, None when all is well again."""
Wait = Callable[[float], bool]
"""Sleeps for seconds; True if the show is over and the source should end."""

LIVE_FRAMES_PER_S = 30.0
"""Of whatever states no rate of its own."""
FIRST_RETRY_S, SLOWEST_RETRY_S = 0.5, 8.0
GIVE_UP_S = 60.0
"""A stream that stays away for so long is an error."""
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


def open_live(name: str) -> Camera | Stream:
    """A camera by its number or device, anything else is a stream's address."""
    device = re.fullmatch(r"(?:/dev/video)?(\d+)", name)
    return Camera(int(device[1])) if device else Stream(name)


def _read(capture: cv2.VideoCapture) -> Iterator[ImageBGR]:
    while True:
        found, frame = capture.read()
        if not found:
            return
        yield np.asarray(frame, np.uint8)
