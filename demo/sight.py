"""What a model sees of one source: every N-th picture looked at, objects with numbers that stay."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import detq
from detq import ImageBGR, Source

from .meter import Meter

Look = Callable[[ImageBGR], detq.Frame]


@dataclass(frozen=True)
class Following:
    """How a model follows its sources.

    Every ``every``-th picture of a source is looked at, and those between are shown with what was
    found in it. ``track`` gives objects numbers that stay; between, only what has one is shown.
    """

    every: int = 1
    track: bool = False

    def tracks(self, confidence: float, frames_per_s: float) -> detq.Tracks | None:
        """Of one source, if there are to be any. Raises ConfigError if their library is missing."""
        if not self.track:
            return None
        return detq.Tracks(confidence=confidence, frames_per_s=frames_per_s / self.every)


@dataclass(frozen=True)
class Result:
    """The newest picture of a source with its detections, and pictures per second up to it.

    ``track_ids`` has a number for each detection, -1 for none; it is empty without tracks.
    """

    frame: detq.Frame
    frames_per_s: float
    track_ids: Sequence[int] = ()


class Sight:
    """One source, as one model sees it. ``confidence`` is where tracks begin."""

    def __init__(self, source: Source, following: Following, confidence: float) -> None:
        self._following = following
        self._tracks = following.tracks(confidence, source.frames_per_s)
        self._meter = Meter()
        self._due = 0  # the first picture that is to be looked at
        self._last: Result | None = None

    def see(self, index: int, time_s: float, image: ImageBGR, look: Look) -> Result:
        """The ``index``-th picture with its detections; ``look`` is called if its turn has come."""
        every, rate = self._following.every, self._meter.tick(time.monotonic())
        if self._last is not None and index < self._due:
            frame = replace(self._last.frame, index=index, image=image)
            return replace(self._last, frame=frame, frames_per_s=rate)
        self._due = (index // every + 1) * every
        frame = replace(look(image), index=index)
        if self._tracks is None:
            self._last = Result(frame, rate)
            return self._last
        ids = self._tracks.update(frame.detections, time_s)[1]
        self._last = _tracked_alone(Result(frame, rate, ids))
        return Result(frame, rate, ids)


def _tracked_alone(result: Result) -> Result:
    """Without what has no number."""
    found = result.frame.detections
    rows = [row for row, number in enumerate(result.track_ids) if number > 0]
    ids = [result.track_ids[row] for row in rows]
    return replace(result, frame=replace(result.frame, detections=found.at(rows)), track_ids=ids)
