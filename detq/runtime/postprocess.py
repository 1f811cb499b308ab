"""Predictions of the network -> detections in the original image.

Source: the evaluation protocol behind YOLOv6's published COCO figures, whose non-maximum
suppression is torchvision's (float32, overlap without "+1", equal scores in their first order).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detq.data.letterbox import Letterbox
from detq.errors import DetqError
from detq.records import Detections

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

MAX_CANDIDATES = 30_000
_BLOCK = 128  # candidates that are compared each with each at once
_CLASS_OFFSET_PX = np.float32(4096)


@dataclass(frozen=True)
class PostprocessOptions:
    """Which candidates become detections.

    A candidate needs a score above ``confidence``; of two boxes of one class that overlap by more
    than ``iou`` the better stays, with None both do. With ``multi_label`` one location may report
    several classes, otherwise only its best.
    """

    confidence: float
    iou: float | None
    max_detections: int = 300
    multi_label: bool = True

    def __post_init__(self) -> None:
        iou = 0 if self.iou is None else self.iou
        if not (0 <= self.confidence < 1 and 0 <= iou <= 1 and self.max_detections > 0):
            raise DetqError(
                "post-processing: expected confidence in [0, 1), IoU in [0, 1] and at least one "
                f"detection, got {self.confidence}, {self.iou} and {self.max_detections}"
            )


EVALUATION = PostprocessOptions(confidence=0.03, iou=0.65)
PREDICTION = PostprocessOptions(confidence=0.25, iou=0.45, multi_label=False)


def postprocess(
    predictions: Floats, letterbox: Letterbox, options: PostprocessOptions
) -> Detections:
    """float32 [4 + nc, N] (cx, cy, w, h in input pixels, then scores) -> detections, best first.

    The boxes are corners in pixels of the original image, clamped to it.
    """
    rows, class_ids = _candidates(predictions[4:], options)
    scores = predictions[4 + class_ids, rows]
    # Best first; equal scores by location, then class.
    most = options.max_detections if options.iou is None else MAX_CANDIDATES
    order = np.lexsort((class_ids, rows, -scores))[:most]
    rows, class_ids, scores = rows[order], class_ids[order], scores[order]
    boxes = _corners(predictions[:4, rows])
    kept = np.arange(len(boxes))
    if options.iou is not None:
        # Far apart, boxes of different classes cannot suppress each other.
        offsets = class_ids.astype(np.float32)[:, None] * _CLASS_OFFSET_PX
        kept = suppress(boxes + offsets, iou=options.iou, limit=options.max_detections)
    return Detections(
        boxes_xyxy_px=letterbox.to_original(boxes[kept]),
        scores=scores[kept],
        class_ids=class_ids[kept],
    )


def suppress(boxes_xyxy: Floats, *, iou: float, limit: int) -> Indices:
    """Greedy non-maximum suppression of [n, 4] boxes, best first -> indices of at most ``limit``.

    Exact in float32, as torchvision is. ``cv2.dnn.NMSBoxesBatched`` works in float64 and takes any
    two boxes without area for the same one.
    """
    kept = np.empty(0, np.int64)
    for start in range(0, len(boxes_xyxy), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(boxes_xyxy)))
        if kept.size:
            block = block[~_overlap(boxes_xyxy[kept], boxes_xyxy[block], iou).any(axis=0)]
        kept = np.concatenate([kept, block[_survivors(boxes_xyxy[block], iou)]])
        if len(kept) >= limit:
            return kept[:limit]
    return kept


def _survivors(boxes_xyxy: Floats, iou: float) -> list[int]:
    """Non-maximum suppression by the matrix of all overlaps; best first."""
    overlaps = _overlap(boxes_xyxy, boxes_xyxy, iou)
    alive = np.ones(len(boxes_xyxy), bool)
    survivors = []
    for index, row in enumerate(overlaps):
        if alive[index]:
            survivors.append(index)
            alive &= ~row
    return survivors


def _overlap(boxes: Floats, others: Floats, iou: float) -> npt.NDArray[np.bool_]:
    """[n, 4] and [m, 4] corners -> [n, m], True where two overlap by more than ``iou``."""
    low, high = np.split(np.ascontiguousarray(boxes.T), 2)  # [2, n]: left and top, right and bottom
    other_low, other_high = np.split(np.ascontiguousarray(others.T), 2)
    sides = np.minimum(high[:, :, None], other_high[:, None])
    sides -= np.maximum(low[:, :, None], other_low[:, None])
    shared = np.multiply(*np.maximum(sides, 0, out=sides))
    areas, other_areas = np.multiply(*(high - low)), np.multiply(*(other_high - other_low))
    with np.errstate(invalid="ignore"):  # two boxes without area: 0 / 0 overlaps nothing
        overlap: Floats = shared / (areas[:, None] + other_areas - shared)
        return overlap > iou


def _candidates(scores: Floats, options: PostprocessOptions) -> tuple[Indices, Indices]:
    """[nc, N] scores -> locations and classes of those above the confidence, in any order."""
    above = scores > options.confidence
    if options.multi_label:
        class_ids, rows = np.nonzero(above)
        return rows, class_ids
    rows = np.flatnonzero(above.any(axis=0))
    return rows, scores[:, rows].argmax(axis=0)


def _corners(boxes_cxcywh: Floats) -> Floats:
    """[4, n] centre and size -> [n, 4] corners."""
    centre, half = boxes_cxcywh[:2], boxes_cxcywh[2:] / 2
    return np.concatenate([centre - half, centre + half]).T
