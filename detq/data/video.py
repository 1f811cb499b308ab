"""Frames of a video, one after another."""

from __future__ import annotations

import os
from collections.abc import Generator
from math import isfinite
from pathlib import Path
from typing import cast

import numpy as np

from detq.data.images import ImageBGR
from detq.data.remote import without_password
from detq.errors import DataError
from detq.opencv import cv2

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})

MOST_FRAMES_PER_S = 1000.0
"""A file that states more states nonsense."""
EARLY = 0.95
"""A video with a smaller share of its frames is damaged."""
COUNTED = (".avi", ".m4v", ".mov", ".mp4")
"""Files that hold how many frames they have; of others FFmpeg guesses it by time."""


def frame_rate(path: Path) -> float | None:
    """Frames per second that a video file states; None for anything else, or if it states none."""
    if path.suffix.lower() not in VIDEO_SUFFIXES or not path.is_file():
        return None
    capture = _open(str(path))
    try:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
    finally:
        capture.release()
    return rate if isfinite(rate) and 0 < rate <= MOST_FRAMES_PER_S else None


def read_timed(
    name: str,
    every: int = 1,
    start_s: float = 0.0,
    end_s: float | None = None,
    most: int | None = None,
) -> Generator[tuple[int, float, ImageBGR]]:
    """Number, time in seconds and picture of a video's frames, ``name`` a path or an address.

    Of those from ``start_s`` on and before ``end_s`` every ``every``-th, at most ``most``. Raises
    DataError if there is no video to be had, and at its end if that came too early: if the file
    states more frames, by a twentieth and one.
    """
    capture = _open(name)
    try:
        if not capture.grab() or not capture.retrieve()[0]:
            raise DataError(
                f"{without_password(name)}: no frames; not a video that OpenCV can decode, or no "
                "such file"
            )
        index = wanted = found = 0
        while most is None or found < most:
            time_s = max(float(capture.get(cv2.CAP_PROP_POS_MSEC)), 0.0) / 1000
            if end_s is not None and time_s >= end_s:
                return
            if time_s >= start_s:
                if wanted % every == 0:
                    decoded, frame = capture.retrieve()
                    if not decoded:
                        break
                    yield index, time_s, np.asarray(frame, np.uint8)
                    found += 1
                wanted += 1
            if not capture.grab():
                break
            index += 1
        else:
            return
        stated = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if name.lower().endswith(COUNTED) and index + 1 < EARLY * stated - 1:
            raise DataError(
                f"{without_password(name)}: ends after {index + 1} of {stated:.0f} frames; it is "
                "damaged or cut short: replace the file"
            )
    finally:
        capture.release()


def _open(name: str) -> cv2.VideoCapture:
    """A path or an address; a FIFO or a folder gives nothing, where FFmpeg would wait for it."""
    if "://" in name:
        return cv2.VideoCapture(cast(str, os.fsencode(name)))
    path = Path(name)
    if not path.is_file():
        return cv2.VideoCapture()
    # FFmpeg takes "a:b.mp4" for an address; a name that is no Unicode would end the process.
    return cv2.VideoCapture(cast(str, os.fsencode(path.absolute())))
