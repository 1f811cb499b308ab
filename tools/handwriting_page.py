"""Draw the page of handwriting that the README shows: a "photograph" detq's digits did not make.

Every digit is a pen stroke along points set by hand below, with a hand's unsteadiness; the page is
paper with a shadow, seen at a slant. No scan, font or drawing code of ``detq digits`` takes part.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from scipy.interpolate import splev, splprep

SIZE = (720, 960)  # height, width of the paper in pixels
PEN = 0.23  # width of the felt pen, relative to half the height of a sign
LINES = ("27  58  85", "3 14159", "1984  1066", "0637  259")
FLATNESS = 0.72  # of the height of the signs below, which are drawn slender
# Strokes of each sign in a box one wide and two high, origin at the top left.
STROKES: dict[str, list[list[tuple[float, float]]]] = {
    "0": [[(0.5, 0), (0.1, 0.5), (0.1, 1.4), (0.5, 2), (0.9, 1.4), (0.9, 0.5), (0.5, 0.02)]],
    "1": [[(0.25, 0.45), (0.45, 0.2), (0.55, 0), (0.54, 1), (0.5, 2)]],
    "2": [[(0.1, 0.45), (0.3, 0.05), (0.75, 0.1), (0.8, 0.7), (0.4, 1.4), (0.05, 1.95)],
          [(0.05, 1.95), (0.5, 1.9), (0.95, 1.92)]],
    "3": [[(0.1, 0.25), (0.5, 0), (0.85, 0.35), (0.7, 0.85), (0.35, 0.95)],
          [(0.35, 0.95), (0.8, 1.1), (0.9, 1.6), (0.5, 2), (0.08, 1.75)]],
    "4": [[(0.55, 0.05), (0.3, 0.7), (0.05, 1.25)], [(0.05, 1.25), (0.5, 1.2), (0.98, 1.22)],
          [(0.72, 0.5), (0.7, 1.2), (0.66, 2)]],
    "5": [[(0.85, 0.05), (0.5, 0.06), (0.2, 0.08)], [(0.2, 0.08), (0.17, 0.45), (0.14, 0.85)],
          [(0.14, 0.85), (0.6, 0.75), (0.92, 1.2), (0.7, 1.85), (0.08, 1.85)]],
    "6": [[(0.75, 0.05), (0.3, 0.6), (0.1, 1.4), (0.45, 2), (0.85, 1.6), (0.6, 1.05), (0.15, 1.4)]],
    "7": [[(0.08, 0.1), (0.5, 0.08), (0.9, 0.1)], [(0.9, 0.1), (0.6, 0.9), (0.38, 2)]],
    "8": [[(0.75, 0.3), (0.45, 0), (0.2, 0.4), (0.5, 0.9), (0.85, 1.5), (0.5, 2), (0.13, 1.5),
           (0.5, 0.95), (0.8, 0.5), (0.72, 0.25)]],
    "9": [[(0.85, 0.35), (0.5, 0.02), (0.15, 0.4), (0.35, 0.95), (0.8, 0.7), (0.86, 0.35)],
          [(0.86, 0.35), (0.85, 1.2), (0.75, 2)]],
}  # fmt: skip


def draw_page(rng: np.random.Generator) -> np.ndarray:
    """uint8 [H, W, 3] BGR."""
    height, width = SIZE
    paper = np.full((height, width, 3), (222, 232, 236), np.float32)
    for y in range(60, height, 44):
        cv2.line(paper, (0, y), (width, y), (205, 196, 178), 1, cv2.LINE_AA)
    cv2.line(paper, (70, 0), (70, height), (160, 160, 215), 2, cv2.LINE_AA)
    baseline = 40.0
    for text, scale in zip(LINES, (74, 78, 66, 70), strict=True):
        x = 110.0
        for sign in text:
            if sign != " ":
                _draw_sign(rng, paper, sign, (x, baseline), scale * rng.uniform(0.92, 1.08))
            x += scale * (0.6 if sign == " " else 1.4)
        baseline += 168
    return _photograph(rng, paper)


def _draw_sign(
    rng: np.random.Generator, paper: np.ndarray, sign: str, place: tuple[float, float], scale: float
) -> None:
    slant = rng.uniform(-0.05, 0.12)
    for stroke in STROKES[sign]:
        points = np.array(stroke) * (1, FLATNESS) + rng.normal(0, 0.025, (len(stroke), 2))
        points[:, 0] += slant * (2 - points[:, 1])
        spline, _ = splprep(points.T, s=0, k=min(3, len(points) - 1))
        line = np.stack(splev(np.linspace(0, 1, 60), spline), 1) * scale + place
        ends = np.round(line * 16).astype(np.int32)  # sixteenths of a pixel
        for number, (start, end) in enumerate(pairwise(ends)):
            thickness = round(PEN * scale) + int(number % 60 > 12) + int(number % 60 > 30)
            ink = (96, 52, 38)
            cv2.line(paper, start.tolist(), end.tolist(), ink, thickness, cv2.LINE_AA, shift=4)


def _photograph(rng: np.random.Generator, paper: np.ndarray) -> np.ndarray:
    """On a table, at a slant, under a lamp, through a lens."""
    height, width = SIZE
    canvas = (height + 120, width + 160)
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    seen = np.array([(95, 40), (1035, 62), (1080, 800), (48, 770)], np.float32)
    view = cv2.getPerspectiveTransform(corners, seen)
    table = np.full((*canvas, 3), (62, 84, 112), np.float32)
    table += cv2.resize(rng.normal(0, 14, (canvas[0] // 2, 12, 3)), canvas[::-1])
    mask = cv2.warpPerspective(np.ones(SIZE, np.float32), view, canvas[::-1])[..., None]
    page = cv2.warpPerspective(paper, view, canvas[::-1])
    y, x = np.mgrid[: canvas[0], : canvas[1]] / max(canvas)
    lamp = (1.08 - 0.45 * np.hypot(x - 0.35, y - 0.25))[..., None]
    photo = (page * mask + table * (1 - mask)) * lamp + rng.normal(0, 4, (*canvas, 3))
    return np.clip(cv2.GaussianBlur(photo, (0, 0), 0.8), 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("weights/handwriting.jpg"))
    arguments = parser.parse_args()
    photo = draw_page(np.random.default_rng(0))
    cv2.imwrite(str(arguments.output), photo, [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
