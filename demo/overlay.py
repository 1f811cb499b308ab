"""What the window shows: pictures with boxes in a grid, speed, thresholds, help, notices."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import cv2
import numpy as np

import detq
from detq import ImageBGR

from .lettering import shade, text_width, write
from .sight import Result

SizeHW = tuple[int, int]

LARGEST_WH = (1280, 720)
"""Of all pictures in a row."""
LARGEST_HEIGHT, STRIPS_HEIGHT = 800, 66
"""Of all rows with their headings, and of the headings of one."""
SMALLEST_HEIGHT, SMALLEST_OF_MANY = 480, 120
WHITE, GREY, AMBER, GREEN = (255, 255, 255), (190, 190, 190), (60, 190, 255), (120, 220, 120)
DARK = 24
GAP_PX = 2
SAME_SHAPE = 0.02
"""Pictures whose sides differ by no more fill their panel."""


@dataclass(frozen=True)
class Panel:
    """What one model sees of a source. ``result`` is None while there is none yet."""

    title: str
    class_names: tuple[str, ...]
    result: Result | None


@dataclass(frozen=True)
class Strip:
    """A source: the panels of all models side by side, and what the source has to say."""

    source: str
    panels: Sequence[Panel]
    notice: str | None = None


@dataclass(frozen=True)
class Status:
    """What concerns the whole window."""

    confidence: float
    is_paused: bool = False
    help_lines: tuple[tuple[str, str], ...] = ()
    hint: str = ""


def compose(strips: Sequence[Strip], status: Status, shape_hw: SizeHW | None = None) -> ImageBGR:
    """All sources in a grid -> uint8 [H, W, 3] BGR. Several models have a row for each source.

    Its size depends alone on the numbers of both and on ``shape_hw``, by default that of the first
    picture; pictures of other shapes have a margin.
    """
    models = len(strips[0].panels)
    columns = 1 if models > 1 else ceil(sqrt(len(strips)))
    rows = ceil(len(strips) / columns)
    size_wh = panel_size(shape_hw or shape_of(strips) or (480, 640), models * columns, rows)
    shown = [_strip(strip, size_wh, status, len(strips) > 1) for strip in strips]
    shown += [np.full_like(shown[0], DARK)] * (rows * columns - len(shown))
    canvas = np.vstack([np.hstack(shown[i : i + columns]) for i in range(0, len(shown), columns)])
    for number in range(1, models * columns):
        middle = number * size_wh[0]
        canvas[:, middle - GAP_PX // 2 : middle + GAP_PX // 2] = GREY
    if status.help_lines:
        _help(canvas, status.help_lines)
    return canvas


def shape_of(strips: Sequence[Strip]) -> SizeHW | None:
    """Height and width of the first picture that there is."""
    for strip in strips:
        for panel in strip.panels:
            if panel.result is not None:
                height, width = panel.result.frame.image.shape[:2]
                return height, width
    return None


def panel_size(image_hw: SizeHW, columns: int, rows: int = 1) -> tuple[int, int]:
    """How large (width, height) each picture is shown: all fit the screen, small ones grow.

    Both are even, as video encoders want them. Of very many, those of the last rows do not fit.
    """
    height, width = image_hw
    highest = LARGEST_WH[1]
    if rows > 1:
        highest = max(LARGEST_HEIGHT // rows - STRIPS_HEIGHT, SMALLEST_OF_MANY)
    fit = min(LARGEST_WH[0] / columns / width, highest / height)
    scale = min(fit, max(1.0, SMALLEST_HEIGHT / height))
    return max(2, _even(width * scale)), max(2, _even(height * scale))


def _strip(
    strip: Strip, size_wh: tuple[int, int], status: Status, is_one_of_many: bool
) -> ImageBGR:
    panels = [_panel(panel, strip, size_wh, status, is_one_of_many) for panel in strip.panels]
    canvas = np.hstack(panels)
    if strip.notice is not None:
        _banner(canvas, strip.notice)
    return canvas


def _panel(
    panel: Panel, strip: Strip, size_wh: tuple[int, int], status: Status, is_one_of_many: bool
) -> ImageBGR:
    """Heading, picture, and what each stage took, one below the other: no box is covered."""
    width, height = size_wh
    letter = max(12, min(round(height / 26), round(width / 32)))
    if panel.result is None:
        picture = np.full((height, width, 3), DARK, np.uint8)
        write(picture, f"waiting for {strip.source}", (letter, height // 2), letter, GREY)
    else:
        picture = _boxes(panel.result, panel.class_names, size_wh)
    titles = [strip.source, panel.title] if is_one_of_many else [panel.title]
    times_as_fast = _times_as_fast(panel, strip.panels[0])
    heading = _heading(titles, width, panel, times_as_fast, letter, status.is_paused)
    about = f"score from {status.confidence:.2f}   {strip.source}   {status.hint}"
    return np.vstack([heading, picture, _stages(width, panel.result, about, letter)])


def _times_as_fast(panel: Panel, first: Panel) -> float | None:
    """As the first panel, beside which it is."""
    if panel is first or panel.result is None or first.result is None:
        return None
    per_s = first.result.frames_per_s
    return panel.result.frames_per_s / per_s if per_s else None


def _boxes(result: Result, class_names: tuple[str, ...], size_wh: tuple[int, int]) -> ImageBGR:
    """The picture at the size it is shown, with its boxes: lines and letters stay sharp."""
    image, found = result.frame.image, result.frame.detections
    width, height = _fitting(image.shape[1] / image.shape[0], size_wh)
    shrinks = width < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    shown = np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
    ratio = np.array([width / image.shape[1], height / image.shape[0]] * 2, np.float32)
    scaled = detq.Detections(found.boxes_xyxy_px * ratio, found.scores, found.class_ids)
    drawn = detq.draw_detections(shown, scaled, class_names, result.track_ids)
    canvas = np.full((size_wh[1], size_wh[0], 3), DARK, np.uint8)
    left, top = (size_wh[0] - width) // 2, (size_wh[1] - height) // 2
    canvas[top : top + height, left : left + width] = drawn
    return canvas


def _fitting(aspect: float, size_wh: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a picture of that width to height in a panel."""
    width, height = size_wh
    relative = aspect * height / width
    if abs(relative - 1) <= SAME_SHAPE:
        return size_wh
    return max(1, round(width * min(relative, 1))), max(1, round(height / max(relative, 1)))


def _heading(
    titles: Sequence[str],
    width: int,
    panel: Panel,
    times_as_fast: float | None,
    letter: int,
    is_paused: bool,
) -> ImageBGR:
    """Which source and model, and its speed in large letters."""
    large = round(letter * 1.7)
    strip = np.full((_even(large * 1.5), width, 3), DARK, np.uint8)
    middle = (large - letter) // 2 + 3
    speed = "- FPS"
    if panel.result is not None:
        speed = f"{panel.result.frames_per_s:.1f} FPS"
    if is_paused:
        speed = "paused"
    left = width - text_width(speed, large) - letter // 2
    write(strip, speed, (left, 2), large, AMBER if is_paused else WHITE)
    if times_as_fast is not None and not is_paused:
        ratio = f"{times_as_fast:.1f}x"
        left -= text_width(ratio, letter) + letter
        write(strip, ratio, (left, middle), letter, GREEN if times_as_fast >= 1.05 else AMBER)
    room, start = strip[:, : max(left - letter, 0)], letter // 2
    for text, ink in zip(titles, (WHITE, GREY), strict=False):
        start += write(room, text, (start, middle), letter, ink) + letter
    return strip


def _stages(width: int, result: Result | None, about: str, letter: int) -> ImageBGR:
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
    write(strip, about, (letter // 2, small // 4 + row), small, GREY)
    return strip


def _even(extent: float) -> int:
    """As video encoders want it."""
    return round(extent / 2) * 2


def _banner(canvas: ImageBGR, text: str) -> None:
    """Across the middle, in as many lines as it takes."""
    size = max(14, canvas.shape[0] // 28)
    room = canvas.shape[1] - size
    wrapped = (textwrap.wrap(text, letters) for letters in range(len(text), 10, -4))
    fitting = (lines for lines in wrapped if max(text_width(line, size) for line in lines) <= room)
    lines = next(fitting, textwrap.wrap(text, 10))
    top = max(canvas.shape[0] // 2 - size * len(lines), 0)
    shade(canvas, top, top + 2 * size * len(lines), strength=0.8)
    for number, line in enumerate(lines):
        left = max(size // 2, (canvas.shape[1] - text_width(line, size)) // 2)
        write(canvas, line, (left, top + 2 * size * number + size // 2 - 2), size, AMBER)


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
