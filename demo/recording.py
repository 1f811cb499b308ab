"""Without a screen: what the window would show, into a video file."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import cv2

import detq
from detq import Clip, ImageBGR, Item

from .contenders import Contender, title
from .meter import Meter
from .overlay import Panel, SizeHW, Status, Strip, compose, shape_of
from .runner import Thresholds
from .sight import Following, Result
from .stage import Stage
from .view import View

CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "MJPG"}
FRAMES_PER_S = 25.0
LEAST_FREE_BYTES = 1 << 16
Tracked = tuple[Item, ImageBGR | detq.DetqError, detq.Detections | None, list[int]]
"""A picture, what was found in it if it was looked at, and the numbers of that."""


def check_recording(path: Path) -> None:
    """Raise DetqError for a name that no video can be written under."""
    if path.suffix.lower() not in CODECS:
        known = ", ".join(sorted(CODECS))
        raise detq.DetqError(f"{path}: unknown kind of video; known endings: {known}")
    if not path.parent.is_dir():
        raise detq.DetqError(f"{path}: there is no folder {path.parent}; make it first")


def record(path: Path, pictures: Iterable[ImageBGR], frames_per_s: float) -> int:
    """Write pictures of one size; how many there were.

    Ctrl-C ends the video as the end of the pictures does; after any other error there is no file.
    Raises DetqError if it cannot be written.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    writer: cv2.VideoWriter | None = None
    count = 0
    try:
        try:
            for picture in pictures:
                if writer is None:
                    writer = _writer(partial, picture, frames_per_s)
                writer.write(picture)
                count += 1
        except KeyboardInterrupt:
            pass
        if writer is not None:
            writer.release()
            if not _is_whole(partial):
                raise detq.DetqError(f"{path}: cannot be written; check the space on its disk")
            partial.replace(path)
        return count
    finally:
        with suppress(OSError):  # what went wrong before says why
            partial.unlink()


def every_frame(
    contender: Contender, clip: Clip, thresholds: Thresholds, following: Following
) -> Iterator[ImageBGR]:
    """Each picture of a file with its boxes, none left out. What cannot be read is told.

    Tracks of pictures that are not looked at lie between those before and behind.
    """
    detector = contender.alone.tuned(confidence=thresholds.confidence, iou=thresholds.iou)
    tracks = following.tracks(thresholds.confidence, clip.frames_per_s)
    status, meter = Status(confidence=thresholds.confidence), Meter()
    shape_hw: SizeHW | None = None
    last: detq.Frame | None = None

    def looked_at() -> Iterator[Tracked]:
        nonlocal last
        for item, image, frame in _in_order(detector, clip.every_frame(_tell), following.every):
            if frame is None:
                yield item, image, None, []
                continue
            last, found = frame, frame.detections
            yield item, image, found, tracks.update(found, item.time_s)[1] if tracks else []

    every = following.every
    filled = detq.boxes_between(looked_at(), every) if following.track else _kept(looked_at())
    for _, image, found, ids in filled:
        if last is None or found is None or isinstance(image, detq.DetqError):
            continue  # never: the first is looked at, what cannot be read was left out
        frame = replace(last, image=image, detections=found)
        result = Result(frame, meter.tick(time.monotonic()), ids)
        strip = Strip(clip.title, [Panel(title(detector), contender.class_names, result)])
        shape_hw = shape_hw or shape_of([strip])
        yield compose([strip], status, shape_hw)


def _in_order(
    detector: detq.Detector, frames: Iterable[tuple[Item, ImageBGR]], every: int
) -> Iterator[tuple[Item, ImageBGR, detq.Frame | None]]:
    """All frames, every ``every``-th with what is found in it."""
    read: deque[tuple[Item, ImageBGR]] = deque()

    def wanted() -> Iterator[ImageBGR]:
        for item, image in frames:
            read.append((item, image))
            if item.index % every == 0:
                yield image

    for frame in detq.detect_stream(detector, wanted()):
        while read[0][0].index < frame.index * every:
            yield *read.popleft(), None
        yield *read.popleft(), frame
    for item, image in read:
        yield item, image, None


def _kept(frames: Iterable[Tracked]) -> Iterator[Tracked]:
    """Those that were not looked at with what was found in the last that was."""
    last: detq.Detections | None = None
    for item, image, found, ids in frames:
        last = last if found is None else found
        yield item, image, last, ids


def _tell(notice: str | None) -> None:
    print(notice, file=sys.stderr)


def as_shown(stage: Stage, view: View) -> Iterator[ImageBGR]:
    """What the window would show, in real time, until the source ends."""
    while not stage.has_picture and not stage.has_ended:
        time.sleep(0.01)
        stage.follow(view)
    due_s = time.monotonic()
    while not stage.has_ended:
        stage.follow(view)
        yield stage.picture()
        due_s += 1 / FRAMES_PER_S
        time.sleep(max(0.0, due_s - time.monotonic()))
    stage.follow(view)  # raises what ended it
    if stage.has_picture:
        yield stage.picture()  # a short clip can be over before it was shown once


def _is_whole(path: Path) -> bool:
    """OpenCV says nothing of a disk that fills: a video then has no end, or no space behind it."""
    has_space = shutil.disk_usage(path.parent).free > LEAST_FREE_BYTES
    return has_space and detq.frame_rate(path) is not None


def _opencv_name(path: Path) -> str:
    """FFmpeg takes "a:b.mp4" for an address; a name that is no Unicode would end the process."""
    return cast(str, os.fsencode(path.absolute()))


def _writer(path: Path, picture: ImageBGR, frames_per_s: float) -> cv2.VideoWriter:
    height, width = picture.shape[:2]
    codec = cv2.VideoWriter.fourcc(*CODECS[path.suffix.lower()])
    writer = cv2.VideoWriter(_opencv_name(path), codec, frames_per_s, (width, height))
    if not writer.isOpened():
        raise detq.DetqError(f"{path}: cannot be written; check the folder and the space on it")
    return writer
