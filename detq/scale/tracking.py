"""The same number for the same object from frame to frame, and boxes for frames between."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from detq.data.frames import Item
from detq.data.images import ImageBGR
from detq.errors import DetqError
from detq.extras import require
from detq.records import Detections

NO_TRACK = -1
"""The number of a detection that belongs to no track, or to none yet."""
LOST_S, LOST_FRAMES = 1.0, 5
"""So long after it was last seen is a track kept, whichever of the two is longer."""
STARTING_SHARE = 0.05
"""So far between the least score of a detection and 1 lies the least score of a new track."""

Tracked = tuple[Item, ImageBGR | DetqError, Detections | None, list[int]]
"""A frame, what was found in it, best first, and the track of each detection.

Without detections: one that was not looked at, or an error.
"""


class Tracks:
    """The objects of one source, by ByteTrack (Zhang et al., ECCV 2022; library ``trackers``).

    ByteTrack tells detections that may start a track from weaker ones, which only continue one,
    by absolute scores, 0.6 and 0.7 by default. Here a detection may start a track if its score
    is ``confidence + 0.05 * (1 - confidence)``: 0.29 in a run with ``--confidence 0.25``, 0.10 with
    0.05, never above 1. Weaker ones are matched second, to tracks that are left, so that an object
    whose score wavers about the confidence keeps its number and noise there gets none.

    An object has no number in the first frame that shows it; it gets the next one, from 1 on, if
    the following frame shows it too. A track last seen more than a second ago, or five frames if
    these take longer, is over. Classes do not matter: an object keeps its number if its class
    changes.
    """

    def __init__(self, *, confidence: float, frames_per_s: float) -> None:
        """``confidence`` is the least score of a detection, ``frames_per_s`` the rate of the frames
        that come here: of every N-th frame of a video, its rate / N.

        Raises MissingLibraryError without the library.
        """
        trackers, self._supervision = _libraries()
        lost_s = max(LOST_S, LOST_FRAMES / frames_per_s)
        starting = confidence + STARTING_SHARE * (1 - confidence)
        self._tracker = trackers.ByteTrackTracker(
            lost_track_buffer=ceil(30 * lost_s),  # the library counts frames of 1/30 s
            frame_rate=frames_per_s,
            track_activation_threshold=starting,
            high_conf_det_threshold=starting,
        )
        self._frame_s, self._longest_s = 1 / frames_per_s, lost_s / 3
        self._clock_s = 0.0
        self._last_s: float | None = None

    def update(self, found: Detections, time_s: float | None) -> tuple[Detections, list[int]]:
        """The detections of the next frame, as they are, and the track of each, -1 for none.

        ``time_s`` is when the frame is shown. One that is missing or no later than the one before
        counts as one frame later.
        """
        # NaN and infinity would stay in the library's filters and end the run.
        rows = np.flatnonzero(np.isfinite(found.boxes_xyxy_px).all(axis=1))
        tracked = self._tracker.update(
            self._supervision.Detections(
                xyxy=found.boxes_xyxy_px[rows],
                confidence=found.scores[rows],
                class_id=found.class_ids[rows],
                data={"row": rows},
            ),
            timestamp=self._tick(time_s),
        )
        ids = [NO_TRACK] * len(found)
        if len(rows):  # the library's empty answer has no rows
            # Its order is another one: strong detections that continue tracks come first.
            for row, number in zip(tracked.data["row"], tracked.tracker_id, strict=True):
                ids[int(row)] = NO_TRACK if number < 0 else int(number) + 1
        return found, ids

    def _tick(self, time_s: float | None) -> float:
        """Seconds on a clock that always goes forward, by at most a third of what ends a track.

        At other times the library warns and skips the frame, and after a longer pause, which a
        slow live source has between any two frames, it forgets all tracks.
        """
        gap_s = self._frame_s
        if time_s is not None and np.isfinite(time_s):
            if self._last_s is not None and time_s > self._last_s:
                gap_s = time_s - self._last_s
            self._last_s = time_s
        self._clock_s += min(gap_s, self._longest_s)
        return self._clock_s


def between(frames: Iterable[Tracked], every: int) -> Generator[Tracked]:
    """All frames, those that were not looked at with boxes from their neighbours that were.

    Of the tracks that both neighbours show, boxes lie on the straight line between the two, by the
    frames' times or else their numbers; the score is the smaller one, the class the earlier one.
    A frame without a later neighbour, or with none among the ``every`` - 1 frames behind it, shows
    the tracks of the earlier one unchanged. Errors pass as they are. Frames of several sources may
    alternate: each source has its own neighbours, and its frames stay in order.

    At most ``every`` frames of a source are held.
    """
    gaps: dict[str, _Gap] = {}
    for frame in frames:
        yield from gaps.setdefault(frame[0].source, _Gap(every)).push(frame)
    for gap in gaps.values():
        yield from gap.close()


@dataclass
class _Gap:
    """The frames of a source since the last one that was looked at."""

    every: int
    held: deque[Tracked] = field(default_factory=deque)
    earlier: _Look | None = None

    def push(self, frame: Tracked) -> Generator[Tracked]:
        item, _, found, ids = frame
        if found is not None:
            later = _Look(item, found, ids)
            while self.held:
                yield self._filled(later)
            self.earlier = later
            yield frame
            return
        self.held.append(frame)
        while len(self.held) >= max(self.every, 1):
            yield self._filled(None)

    def close(self) -> Generator[Tracked]:
        while self.held:
            yield self._filled(None)

    def _filled(self, later: _Look | None) -> Tracked:
        item, image, _, ids = self.held.popleft()
        if isinstance(image, DetqError):
            return item, image, None, ids
        if self.earlier is None:
            return item, image, *_NOTHING
        return item, image, *self.earlier.towards(later, item)


@dataclass(frozen=True)
class _Look:
    """What was found in a frame."""

    item: Item
    found: Detections
    ids: list[int]

    def towards(self, later: _Look | None, item: Item) -> tuple[Detections, list[int]]:
        """Tracks as a frame between the two shows them; as here if there is no later one."""
        if later is None:
            return _pick(self.found, self.ids, [row for row, id_ in enumerate(self.ids) if id_ > 0])
        there = {id_: row for row, id_ in enumerate(later.ids)}
        rows = [row for row, id_ in enumerate(self.ids) if id_ > 0 and id_ in there]
        start, ids = _pick(self.found, self.ids, rows)
        end, _ = _pick(later.found, later.ids, [there[id_] for id_ in ids])
        share = _share(self.item, item, later.item)
        # float64: rounded once, a box never lies beyond the two
        first, last = (one.boxes_xyxy_px.astype(np.float64) for one in (start, end))
        boxes = (1 - share) * first + share * last
        scores = np.minimum(start.scores, end.scores)
        passed = Detections(boxes.astype(np.float32), scores, start.class_ids)
        return _pick(passed, ids, np.argsort(-scores, kind="stable").tolist())


_NOTHING: tuple[Detections, list[int]] = (
    Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)),
    [],
)


def _pick(found: Detections, ids: list[int], rows: list[int]) -> tuple[Detections, list[int]]:
    return found.at(rows), [ids[row] for row in rows]


def _share(start: Item, item: Item, end: Item) -> float:
    """How far between two frames a third lies, 0 to 1: by times if these are in order."""
    times_s = (start.time_s, item.time_s, end.time_s)
    first, here, last = (np.nan if time_s is None else time_s for time_s in times_s)
    if not (first <= here <= last and first < last):
        first, here, last = start.index, item.index, end.index
    return min(max((here - first) / (last - first), 0.0), 1.0) if first < last else 0.0


def _libraries() -> tuple[Any, Any]:
    """``trackers`` and ``supervision``, whose detections it takes."""
    require("--track", "trackers", "supervision")
    return importlib.import_module("trackers"), importlib.import_module("supervision")
