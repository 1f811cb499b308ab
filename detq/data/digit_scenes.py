"""Scenes of handwritten digits: real scans, drawn at any size onto photographs and textures.

The handwriting is the 1,797 scanned digits, 8x8 pixels with 17 grey levels, that scikit-learn
ships (UCI Optical Recognition of Handwritten Digits). Every picture depends on its random generator
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from detq.data.images import ImageBGR
from detq.opencv import cv2

Field = npt.NDArray[np.float32]
BoxXYXY = tuple[int, int, int, int]
Rng = np.random.Generator
Background = Literal["photo", "texture", "page"]

CLASS_NAMES = tuple("0123456789")
ZOOM = 8
"""A scan of 8x8 pixels becomes a smooth field of 80x80: one pixel of margin on every side."""
HEIGHTS = (0.055, 0.6)
"""Of a digit, relative to the scene; the logarithm is spread evenly over the range."""
MOST_HIDDEN = 0.12
"""Share of the smaller of two boxes that may lie in the other."""
LEAST_CONTRAST = 45.0
"""Difference in grey levels between a digit's colour and what lies behind it."""
_GREY = np.array([0.114, 0.587, 0.299], np.float32)  # of blue, green, red


@dataclass(frozen=True)
class Scan:
    """One written digit: ink density float32 [80, 80] in 0..1, and which digit it is."""

    ink: Field
    class_id: int


@dataclass(frozen=True)
class Scene:
    """A picture uint8 [size, size, 3] BGR and the digits in it: class and box in whole pixels."""

    image: ImageBGR
    objects: tuple[tuple[int, BoxXYXY], ...]


def to_scan(pixels: npt.NDArray[Any], class_id: int) -> Scan:
    """[8, 8] with values 0..16 -> a smooth field of ink."""
    padded = np.pad(pixels.astype(np.float32) / 16.0, 1)
    side = len(padded) * ZOOM
    ink = cv2.resize(padded, (side, side), interpolation=cv2.INTER_CUBIC)
    return Scan(np.clip(ink, 0.0, 1.0), class_id)


def draw_scene(
    rng: Rng, scans: Sequence[Scan], photographs: Sequence[ImageBGR], *, size: int
) -> Scene:
    """A background, clutter, one to ten digits of any size, and a camera's imperfections."""
    kind: Background = rng.choice(["photo", "texture", "page"], p=[0.35, 0.35, 0.3])
    canvas = np.ascontiguousarray(_background(rng, kind, photographs, size), dtype=np.float32)
    if kind != "page":
        for _ in range(rng.integers(0, 6)):
            _draw_clutter(rng, canvas)
    objects = _draw_digits(rng, canvas, scans, on_page=kind == "page")
    for _ in range(rng.choice([0, 1, 2], p=[0.7, 0.2, 0.1])):
        _draw_line(rng, canvas, thickness=1)
    return Scene(_photographed(rng, canvas), tuple(objects))


def render_digit(rng: Rng, scan: Scan, height_px: float) -> Field:
    """The scan in a hand of its own: slant, turn, width, pen. Opacity float32 [h, w] in 0..1.

    Trimmed to the ink; about ``height_px`` high.
    """
    rows = np.flatnonzero((scan.ink > 0.4).any(axis=1))
    scale = height_px / (rows[-1] - rows[0] + 1)
    shrink = max(1, round(1 / scale))  # drawn larger and averaged down, so that thin lines survive
    side = scan.ink.shape[0]
    turn = np.deg2rad(rng.uniform(-18, 18))
    slant = rng.uniform(-0.25, 0.25)
    width = rng.uniform(0.75, 1.2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = rotation @ np.array([[width, slant], [0.0, 1.0]]) * scale * shrink
    reach = int(np.ceil(side * scale * shrink * 1.6))
    offset = reach / 2 - linear @ np.array([side / 2, side / 2])
    field = cv2.warpAffine(scan.ink, np.column_stack([linear, offset]), (reach, reach))
    pen, sharpness = rng.uniform(0.32, 0.5), rng.uniform(4, 12)  # level of the outline
    opacity = np.clip((field - pen) * sharpness + 0.5, 0.0, 1.0)
    if shrink > 1:
        smaller = max(1, reach // shrink)
        opacity = cv2.resize(opacity, (smaller, smaller), interpolation=cv2.INTER_AREA)
    return _trimmed(opacity)


def _trimmed(opacity: Field) -> Field:
    inked = opacity > 0.35
    rows, columns = (np.flatnonzero(inked.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return opacity[:0, :0]
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _draw_digits(
    rng: Rng, canvas: Field, scans: Sequence[Scan], *, on_page: bool
) -> list[tuple[int, BoxXYXY]]:
    size = len(canvas)
    smallest, largest = (height * size for height in HEIGHTS)
    ink = _page_ink(rng) if on_page else None
    line_height = np.exp(rng.uniform(np.log(smallest), np.log(largest / 2)))
    objects: list[tuple[int, BoxXYXY]] = []
    for _ in range(rng.integers(4, 16) if on_page else rng.integers(1, 9)):
        height = np.exp(rng.uniform(np.log(smallest), np.log(largest)))
        if on_page:  # one hand, about one size
            height = max(smallest, line_height * rng.uniform(0.8, 1.25))
        scan = scans[int(rng.integers(len(scans)))]
        opacity = render_digit(rng, scan, height)
        box = _free_place(rng, opacity.shape, [other for _, other in objects], size)
        if box is not None:
            _paint(rng, canvas, opacity, box, ink)
            objects.append((scan.class_id, box))
    return objects


def _free_place(
    rng: Rng, shape: tuple[int, ...], taken: Sequence[BoxXYXY], size: int
) -> BoxXYXY | None:
    """Where a digit of ``shape`` fits and hides no other; None after some attempts."""
    height, width = shape
    if min(shape) < 3 or max(shape) > size - 2:
        return None
    for _ in range(12):
        left, top = (int(rng.integers(1, size - side)) for side in (width, height))
        box = (left, top, left + width, top + height)
        if all(_hidden(box, other) <= MOST_HIDDEN for other in taken):
            return box
    return None


def _hidden(first: BoxXYXY, second: BoxXYXY) -> float:
    """Shared area over the smaller box's."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return max(width, 0) * max(height, 0) / min(areas)


def _paint(rng: Rng, canvas: Field, opacity: Field, box: BoxXYXY, ink: Field | None) -> None:
    left, top, right, bottom = box
    behind = canvas[top:bottom, left:right]
    color = _contrasting(rng, behind) if ink is None else ink + rng.normal(0, 6, 3)
    cover = (opacity * rng.uniform(0.85, 1.0))[..., None]
    canvas[top:bottom, left:right] = behind * (1 - cover) + color.astype(np.float32) * cover


def _contrasting(rng: Rng, behind: Field) -> Field:
    """A colour that stands out: as far from the mean grey as asked, or else black or white."""
    grey = float(behind.mean(axis=(0, 1)) @ _GREY)
    for _ in range(20):
        color = rng.uniform(0, 255, 3).astype(np.float32)
        if abs(float(color @ _GREY) - grey) > LEAST_CONTRAST:
            return color
    return np.full(3, 0.0 if grey > 127 else 255.0, np.float32)


def _page_ink(rng: Rng) -> Field:
    """Pencil, black, blue or red, as BGR."""
    inks = [(70, 70, 70), (25, 20, 20), (140, 50, 30), (40, 30, 150)]
    return np.array(inks[rng.integers(len(inks))], np.float32)


def _background(rng: Rng, kind: Background, photographs: Sequence[ImageBGR], size: int) -> Field:
    if kind == "photo":
        return _photo_crop(rng, photographs[int(rng.integers(len(photographs)))], size)
    return _page(rng, size) if kind == "page" else _texture(rng, size)


def _photo_crop(rng: Rng, photo: ImageBGR, size: int) -> Field:
    side = int(rng.integers(min(photo.shape[:2]) // 4, min(photo.shape[:2]) + 1))
    top, left = (int(rng.integers(0, extent - side + 1)) for extent in photo.shape[:2])
    crop = cv2.resize(photo[top : top + side, left : left + side], (size, size))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    shifted = crop.astype(np.float32)[..., rng.permutation(3)]  # other colours
    return np.asarray(np.clip(shifted * rng.uniform(0.6, 1.1), 0, 255), np.float32)


def _texture(rng: Rng, size: int) -> Field:
    """Coloured clouds of several sizes, at times with stripes or checks."""
    canvas = np.full((size, size, 3), rng.uniform(40, 215, 3), np.float32)
    for cells in (3, 8, 24):
        cloud = rng.normal(0, rng.uniform(5, 160 / cells), (cells, cells, 3)).astype(np.float32)
        canvas += cv2.resize(cloud, (size, size), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.4:
        across, down = np.meshgrid(np.arange(size), np.arange(size))
        angle, period = rng.uniform(0, np.pi), rng.uniform(8, 60)
        wave = np.sin((across * np.cos(angle) + down * np.sin(angle)) * 2 * np.pi / period)
        if rng.random() < 0.5:
            wave = wave * np.sin((down * np.cos(angle) - across * np.sin(angle)) * 6.28 / period)
        canvas += (np.sign(wave) * rng.uniform(4, 22))[..., None].astype(np.float32)
    return np.clip(canvas, 0, 255)


def _page(rng: Rng, size: int) -> Field:
    """Paper, at times lined or squared, under uneven light."""
    canvas = np.full((size, size, 3), rng.uniform(195, 250), np.float32) + rng.normal(0, 6, 3)
    canvas = canvas.astype(np.float32)
    if rng.random() < 0.5:
        spacing, color = int(rng.integers(12, 56)), rng.uniform(120, 210, 3)
        squared = rng.random() < 0.5
        for start in range(int(rng.integers(spacing)), size, spacing):
            canvas[start] = color
            if squared:
                canvas[:, start] = color
    light = rng.uniform(0.7, 1.05, (2, 2)).astype(np.float32)
    return np.clip(canvas * cv2.resize(light, (size, size))[..., None], 0, 255)


def _draw_clutter(rng: Rng, canvas: Field) -> None:
    """Something that is no digit: a line, a disc, a rectangle, an arc, a polygon."""
    size = len(canvas)
    color = tuple(rng.uniform(0, 255, 3).tolist())
    where = tuple(int(v) for v in rng.integers(0, size, 2))
    extent = tuple(int(v) for v in rng.integers(size // 30, size // 4, 2))
    thickness = int(rng.integers(1, 5)) if rng.random() < 0.6 else cv2.FILLED
    kind = rng.integers(5)
    if kind == 0:
        _draw_line(rng, canvas, thickness=int(rng.integers(1, 6)))
    elif kind == 1:
        cv2.circle(canvas, where, extent[0], color, cv2.FILLED, cv2.LINE_AA)
    elif kind == 2:
        far = (where[0] + extent[0], where[1] + extent[1])
        cv2.rectangle(canvas, where, far, color, thickness)
    elif kind == 3:
        sweep = float(rng.uniform(40, 120))  # open enough to be no zero
        turn = float(rng.uniform(0, 360))
        cv2.ellipse(canvas, where, extent, turn, 0, sweep, color, abs(thickness), cv2.LINE_AA)
    else:
        reach, count = size // 8, int(rng.integers(3, 6))
        corners = np.array(where) + rng.integers(-reach, reach, (count, 2))
        cv2.fillPoly(canvas, [corners.astype(np.int32)], color, cv2.LINE_AA)


def _draw_line(rng: Rng, canvas: Field, *, thickness: int) -> None:
    size = len(canvas)
    ends = [tuple(int(v) for v in rng.integers(-size // 4, size + size // 4, 2)) for _ in range(2)]
    color = tuple(rng.uniform(0, 255, 3).tolist())
    cv2.line(canvas, ends[0], ends[1], color, thickness, cv2.LINE_AA)


def _photographed(rng: Rng, canvas: Field) -> ImageBGR:
    """A little blur, uneven exposure and noise; rounded to 8 bits."""
    if rng.random() < 0.3:
        blurred = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.4, 1.1)))
        canvas = np.asarray(blurred, np.float32)
    canvas = (canvas - 128) * rng.uniform(0.75, 1.1) + 128 + rng.uniform(-20, 20)
    noisy = canvas + rng.normal(0, rng.uniform(0.5, 7), canvas.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
