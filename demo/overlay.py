"""What the window shows: pictures with boxes side by side, speed, thresholds, help, notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

import detq
from detq import ImageBGR

from .lettering import shade, text_width, write
from .runner import Result

LARGEST_WH = (1280, 720)
"""Of all pictures side by side."""
SMALLEST_HEIGHT = 480
WHITE, GREY, AMBER, GREEN = (255, 255, 255), (190, 190, 190), (60, 190, 255), (120, 220, 120)
DARK = 24
GAP_PX = 2


@dataclass(frozen=True)
class Panel:
    """One model's part of the window. ``result`` is None while there is none yet."""

    title: str
    class_names: tuple[str, ...]
    result: Result | None


@dataclass(frozen=True)
class Status:
    """What concerns the whole window."""

    source: str
    confidence: float
    is_paused: bool = False
    help_lines: tuple[tuple[str, str], ...] = ()
    notice: str | None = None


def compose(panels: Sequence[Panel], status: Status) -> ImageBGR:
    """All panels side by side -> uint8 [H, W, 3] BGR. Its size depends on the pictures' alone."""
    sizes = [None if p.result is None else p.result.frame.image.shape[:2] for p in panels]
    known = next((size for size in sizes if size is not None), (480, 640))
    size_wh = panel_size((known[0], known[1]), len(panels))
    canvas = np.hstack([_panel(panel, panels[0], size_wh, status) for panel in panels])
    for number in range(1, len(panels)):
        middle = number * size_wh[0]
        canvas[:, middle - GAP_PX // 2 : middle + GAP_PX // 2] = GREY
    if status.notice is not None:
        _banner(canvas, status.notice)
    if status.help_lines:
        _help(canvas, status.help_lines)
    return canvas


def panel_size(image_hw: tuple[int, int], panels: int) -> tuple[int, int]:
    """How large (width, height) each picture is shown: all fit the screen, small ones grow.

    Both are even, as video encoders want them.
    """
    height, width = image_hw
    fit = min(LARGEST_WH[0] / panels / width, LARGEST_WH[1] / height)
    scale = min(fit, max(1.0, SMALLEST_HEIGHT / height))
    return max(2, _even(width * scale)), max(2, _even(height * scale))


def _panel(panel: Panel, first: Panel, size_wh: tuple[int, int], status: Status) -> ImageBGR:
    """Heading, picture, and what each stage took, one below the other: no box is covered."""
    width, height = size_wh
    letter = max(12, min(round(height / 26), round(width / 32)))
    if panel.result is None:
        picture = np.full((height, width, 3), DARK, np.uint8)
        write(picture, f"waiting for {status.source}", (letter, height // 2), letter, GREY)
    else:
        picture = _boxes(panel.result.frame, panel.class_names, size_wh)
    heading = _heading(width, panel, _times_as_fast(panel, first), letter, status.is_paused)
    return np.vstack([heading, picture, _stages(width, panel.result, status, letter)])


def _times_as_fast(panel: Panel, first: Panel) -> str:
    """``2.9x``, beside a first panel."""
    if panel is first or panel.result is None or first.result is None:
        return ""
    slower = first.result.frames_per_s
    return f"{panel.result.frames_per_s / slower:.1f}x" if slower else ""


def _boxes(frame: detq.Frame, class_names: tuple[str, ...], size_wh: tuple[int, int]) -> ImageBGR:
    """The picture at the size it is shown, with its boxes: lines and letters stay sharp."""
    image, found = frame.image, frame.detections
    shrinks = size_wh[0] < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    shown = np.asarray(cv2.resize(image, size_wh, interpolation=method), np.uint8)
    ratio = np.array([size_wh[0] / image.shape[1], size_wh[1] / image.shape[0]] * 2, np.float32)
    scaled = detq.Detections(found.boxes_xyxy_px * ratio, found.scores, found.class_ids)
    return detq.draw_detections(shown, scaled, class_names)


def _heading(
    width: int, panel: Panel, times_as_fast: str, letter: int, is_paused: bool
) -> ImageBGR:
    """Which model, and its speed in large letters."""
    large = round(letter * 1.7)
    strip = np.full((_even(large * 1.5), width, 3), DARK, np.uint8)
    middle = (large - letter) // 2 + 3
    write(strip, panel.title, (letter // 2, middle), letter, WHITE)
    speed = "- FPS"
    if panel.result is not None:
        speed = f"{panel.result.frames_per_s:.1f} FPS"
    if is_paused:
        speed = "paused"
    left = width - text_width(speed, large) - letter // 2
    write(strip, speed, (left, 2), large, AMBER if is_paused else WHITE)
    if times_as_fast and not is_paused:
        left -= text_width(times_as_fast, letter) + letter
        write(strip, times_as_fast, (left, middle), letter, GREEN)
    return strip


def _stages(width: int, result: Result | None, status: Status, letter: int) -> ImageBGR:
    """Milliseconds of each stage, the threshold and where pictures come from."""
    small = max(11, round(letter * 0.8))
    stages = "starting"
    if result is not None:
        frame = result.frame
        stages = (
            f"letterbox {frame.place_ms:.1f}   network {frame.infer_ms:.1f}   "
            f"boxes {frame.post_ms:.1f}   age {frame.age_ms:.0f} ms   {len(frame.detections)} found"
        )
    row = round(small * 1.4)
    strip = np.full((_even(2 * row + small // 2), width, 3), DARK, np.uint8)
    write(strip, stages, (letter // 2, small // 4), small, WHITE)
    about = f"score from {status.confidence:.2f}   {status.source}   h: help"
    write(strip, about, (letter // 2, small // 4 + row), small, GREY)
    return strip


def _even(extent: float) -> int:
    """As video encoders want it."""
    return round(extent / 2) * 2


def _banner(canvas: ImageBGR, text: str) -> None:
    """One line across the middle."""
    size = max(14, canvas.shape[0] // 28)
    top = canvas.shape[0] // 2 - size
    shade(canvas, top, top + 2 * size, strength=0.8)
    left = max(size // 2, (canvas.shape[1] - text_width(text, size)) // 2)
    write(canvas, text, (left, top + size // 2 - 2), size, AMBER)


def _help(canvas: ImageBGR, lines: Sequence[tuple[str, str]]) -> None:
    """Keys and what they do, on a plate in the middle."""
    size = max(13, canvas.shape[0] // 30)
    key_width = max(text_width(key, size) for key, _ in lines) + size
    width = key_width + max(text_width(what, size) for _, what in lines) + 2 * size
    height = round(1.6 * size) * len(lines) + 2 * size
    left, top = (
        max(0, (canvas.shape[axis] - extent) // 2) for axis, extent in ((1, width), (0, height))
    )
    shade(canvas, top, top + height, left=left, right=left + width, strength=0.85)
    for number, (key, what) in enumerate(lines):
        row = top + size + number * round(1.6 * size)
        write(canvas, key, (left + size, row), size, AMBER)
        write(canvas, what, (left + size + key_width, row), size, WHITE)
