"""Without a screen: what the window would show, into a video file."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast

import cv2

import detq
from detq import Clip, ImageBGR

from .contenders import Contender, title
from .meter import Meter
from .overlay import Panel, Status, compose
from .runner import Result
from .stage import Stage
from .view import View

CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "MJPG"}
FRAMES_PER_S = 25.0
LEAST_FREE_BYTES = 1 << 16


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


def every_frame(contender: Contender, clip: Clip, view: View) -> Iterator[ImageBGR]:
    """Each picture of a file with its boxes, none left out."""
    thresholds = view.thresholds
    detector = contender.alone.tuned(confidence=thresholds.confidence, iou=thresholds.iou)
    status = Status(source=clip.title, confidence=thresholds.confidence)
    meter = Meter()
    for frame in detq.detect_stream(detector, clip.every_frame()):
        result = Result(frame, meter.tick(time.monotonic()))
        yield compose([Panel(title(detector), contender.class_names, result)], status)


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
