"""What ``--source`` names: a live source, or files of any kind, shown at their own pace."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from detq.data.frames import Item, read_sources
from detq.data.images import ImageBGR
from detq.data.live import LIVE_FRAMES_PER_S, Say, Source, Wait, open_live
from detq.data.remote import scheme_of, without_password
from detq.data.sources import Entry, kind_of
from detq.data.video import frame_rate
from detq.errors import DetqError

HOLD_S = 2.0
"""How long each picture is shown that is no video's."""


@dataclass(frozen=True)
class Clip:
    """Videos and pictures, as ``detq predict`` takes them: a file, a folder, a pattern, a list, an
    archive, an address. A video is shown as fast as it was taken.
    """

    name: str
    repeats: bool
    is_live = False

    @property
    def title(self) -> str:
        """The file's name; an address without name, password and query."""
        if scheme_of(self.name):
            return re.split(r"[?#]", without_password(self.name))[0]
        return Path(self.name).name or self.name

    @property
    def frames_per_s(self) -> float:
        """What a video states, else 30."""
        return frame_rate(Path(self.name)) or LIVE_FRAMES_PER_S

    def every_frame(self, say: Say) -> Generator[tuple[Item, ImageBGR]]:
        """Each once, as fast as they can be had, and when it is shown at :attr:`frames_per_s`; a
        picture counts for :data:`HOLD_S`. ``say`` is told what cannot be read.

        Raises DetqError if nothing can.
        """
        number, rate = count(), self.frames_per_s
        for image, seconds in self._shown():
            if isinstance(image, DetqError):
                say(str(image))
                continue
            for index in islice(number, max(1, round(seconds * rate))):
                yield Item(f"{self.title}#{index}", self.title, index, index / rate), image

    def frames(self, say: Say, wait: Wait) -> Generator[ImageBGR]:
        """At their own pace; from the start again if it ``repeats``. What cannot be read is a
        notice for as long as a picture would be shown. Raises DetqError if nothing can.
        """
        rate, due_s = self.frames_per_s, time.monotonic()
        while True:
            for image, seconds in self._shown():
                copies = max(1, round(seconds * rate))
                say(str(image) if isinstance(image, DetqError) else None)
                for _ in range(copies):
                    if wait(due_s - time.monotonic()):
                        return
                    if not isinstance(image, DetqError):
                        yield image
                    due_s = max(due_s + seconds / copies, time.monotonic())  # no rush to catch up
            if not self.repeats:
                return

    def check(self) -> None:
        """Raise DetqError if there is nothing to show."""
        with closing(self._shown()) as shown:
            for image, _ in shown:
                if not isinstance(image, DetqError):
                    return

    def _shown(self) -> Generator[tuple[ImageBGR | DetqError, float]]:
        """Everything once, with the seconds that it is shown."""
        last: Entry | None = None
        with closing(read_sources([self.name])) as shown:
            for entry, image in shown:
                if entry is not last:
                    last, seconds = entry, _seconds(entry)
                yield image, seconds


def _seconds(entry: Entry) -> float:
    """How long each frame of it is shown."""
    if entry.kind != "video":
        return HOLD_S
    return 1 / (frame_rate(Path(entry.names[0])) or LIVE_FRAMES_PER_S)


def open_source(text: str, *, repeats: bool = True) -> Source:
    """What ``--source`` names: a camera's number, a stream's address, or pictures and videos.

    Raises DetqError for what is none of them.
    """
    if kind_of(text) == "live":
        return open_live(text)
    clip = Clip(text, repeats)
    clip.check()
    return clip
