"""Smooth letters on a picture: OpenCV has strokes only, Pillow brings a typeface along."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from detq import ImageBGR

Color = tuple[int, int, int]


def text_width(text: str, size_px: int) -> int:
    """Of one line of text, in pixels."""
    return int(_coverage(text, size_px).shape[1])


def write(canvas: ImageBGR, text: str, corner_xy: tuple[int, int], size_px: int, ink: Color) -> int:
    """Put one line onto ``canvas``, its upper left corner given; what sticks out is cut off.

    ``ink`` is BGR. Returns the width in pixels.
    """
    cover = _coverage(text, size_px)
    left, top = corner_xy
    height = max(0, min(cover.shape[0], canvas.shape[0] - top))
    width = max(0, min(cover.shape[1], canvas.shape[1] - left))
    if top >= 0 and left >= 0 and height and width:
        behind = canvas[top : top + height, left : left + width]
        alpha = cover[:height, :width, None]
        behind[:] = (behind * (1 - alpha) + np.array(ink, np.float32) * alpha).round()
    return int(cover.shape[1])


def shade(
    canvas: ImageBGR,
    top: int,
    bottom: int,
    *,
    left: int = 0,
    right: int | None = None,
    strength: float = 0.62,
) -> None:
    """Darken a rectangle, so that letters on it can be read on any picture."""
    part = canvas[max(top, 0) : bottom, left:right]
    part[:] = (part * (1 - strength)).astype(np.uint8)


@lru_cache(maxsize=1024)
def _coverage(text: str, size_px: int) -> npt.NDArray[np.float32]:
    """Float32 [h, w] in 0..1."""
    font = ImageFont.load_default(size=size_px)
    width = max(1, round(font.getlength(text)))
    image = Image.new("L", (width, round(size_px * 1.3)))
    ImageDraw.Draw(image).text((0, 0), text, fill=255, font=font)
    return np.asarray(image, np.float32) / np.float32(255)
