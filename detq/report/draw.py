"""Boxes with class names and scores, drawn on an image."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from detq.data.images import ImageBGR
from detq.opencv import cv2
from detq.records import Detections

Color = tuple[int, int, int]


def draw_detections(
    image_bgr: ImageBGR,
    detections: Detections,
    class_names: Sequence[str],
    track_ids: Sequence[int] = (),
) -> ImageBGR:
    """uint8 [H, W, 3] BGR -> a copy with boxes and labels, the best detection on top.

    Line width and letters grow with the image. Of ``track_ids``, one for each detection if there
    are any, those from 1 on are shown.
    """
    canvas = image_bgr.copy()
    scale = max(canvas.shape[:2]) / 640
    thickness = max(1, round(1.6 * scale))
    for index in reversed(range(len(detections))):
        left, top, right, bottom = (round(float(v)) for v in detections.boxes_xyxy_px[index])
        class_id = int(detections.class_ids[index])
        color = class_color(class_id)
        cv2.rectangle(canvas, (left, top), (right, bottom), color, thickness, cv2.LINE_AA)
        label = f"{class_names[class_id]} {detections.scores[index]:.2f}"
        if track_ids and track_ids[index] > 0:
            label = f"#{track_ids[index]} {label}"
        _draw_label(canvas, label, (left, top), color, scale)
    return canvas


def class_color(class_id: int) -> Color:
    """BGR colour of a class: neighbouring ids get distant hues (golden ratio steps)."""
    red, green, blue = colorsys.hsv_to_rgb((class_id * 0.618034) % 1, 0.85, 0.9)
    return round(blue * 255), round(green * 255), round(red * 255)


def _draw_label(
    canvas: ImageBGR, label: str, corner: tuple[int, int], color: Color, scale: float
) -> None:
    """Filled plate above the box's corner, or inside it where there is no room above."""
    font, size, weight = cv2.FONT_HERSHEY_SIMPLEX, max(0.42 * scale, 0.3), max(1, round(scale))
    (width, height), baseline = cv2.getTextSize(label, font, size, weight)
    left = min(corner[0], max(0, canvas.shape[1] - width))
    top = corner[1] - height - baseline
    if top < 0:
        top = corner[1]
    plate_end = (left + width, top + height + baseline)
    cv2.rectangle(canvas, (left, top), plate_end, color, cv2.FILLED)
    ink = (255, 255, 255) if sum(color) < 384 else (0, 0, 0)
    origin = (left, top + height + baseline // 2)
    cv2.putText(canvas, label, origin, font, size, ink, weight, cv2.LINE_AA)
