"""Predictions of the network -> detections in the original image.

Source: the evaluation protocol behind YOLOv6's published COCO figures, whose non-maximum
suppression is torchvision's (float32, overlap without "+1", equal scores in their first order).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.data.letterbox import Letterbox
from detq.errors import DetqError
from detq.graph.execute import core
from detq.records import Detections

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

MAX_CANDIDATES = 30_000
FIRST_LOOK = 6
"""At first so many candidates for each detection that is wanted compete."""
CLASS_OFFSET_PX = np.float32(4096)
"""Boxes of different classes are this far apart while they compete."""


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


class Predictions(NamedTuple):
    """What a network says of N places: float32 boxes [4, N] (cx, cy, w, h in input pixels) and
    scores [N, nc].
    """

    boxes_cxcywh: Floats
    scores: Floats

    @classmethod
    def of(cls, table: Floats) -> Predictions:
        """float32 [4 + nc, N], as :mod:`detq.contract` says."""
        return cls(table[:4], table[4:].T)


def postprocess(
    predictions: Predictions | Floats, letterbox: Letterbox, options: PostprocessOptions
) -> Detections:
    """What a network says, also as float32 [4 + nc, N] -> detections, best first.

    The boxes are corners in pixels of the original image, clamped to it.
    """
    if not isinstance(predictions, Predictions):
        predictions = Predictions.of(predictions)
    limit, end_to_end = options.max_detections, options.iou is None
    # Most often the best candidates alone fill the limit, and then the others change nothing.
    looks = [limit] if end_to_end else [min(FIRST_LOOK * limit, MAX_CANDIDATES), MAX_CANDIDATES]
    for most in looks:
        rows, class_ids = _candidates(predictions.scores, options, most)
        scores = predictions.scores[rows, class_ids]
        boxes = _corners(predictions.boxes_cxcywh[:, rows])
        kept = np.arange(len(boxes))
        if options.iou is not None:
            # Far apart, boxes of different classes cannot suppress each other.
            offsets = class_ids.astype(np.float32)[:, None] * CLASS_OFFSET_PX
            kept = suppress(boxes + offsets, scores, iou=options.iou, limit=limit)
        if len(kept) == limit or len(rows) < most:
            break
    return Detections(
        boxes_xyxy_px=letterbox.to_original(boxes[kept]),
        scores=scores[kept],
        class_ids=class_ids[kept],
    )


def suppress(boxes_xyxy: Floats, scores: Floats, *, iou: float, limit: int) -> Indices:
    """Greedy non-maximum suppression of [n, 4] boxes with (n,) scores -> at most ``limit`` indices.

    Best first, and of equal scores the first. By OpenVINO, in float32 as torchvision's is;
    ``cv2.dnn.NMSBoxesBatched`` works in float64 and takes any two boxes without area for the same
    one.
    """
    if not len(boxes_xyxy):
        return np.empty(0, np.int64)
    request = _suppressor().create_infer_request()
    request.infer(
        {
            "boxes": boxes_xyxy[None],
            "scores": scores[None, None],
            "limit": np.array(limit),
            "iou": above(iou),
        }
    )
    return np.array(request.get_output_tensor(0).data[:, 2], np.int64)  # (batch, class, index)


def above(iou: float) -> npt.NDArray[np.float32]:
    """OpenVINO's threshold for suppression above ``iou``: it also suppresses at exactly its own."""
    return np.nextafter(np.array(iou, np.float32), np.float32(np.inf))


@cache
def _suppressor() -> ov.CompiledModel:
    """Non-maximum suppression of any number of boxes of one class."""
    boxes = ops.parameter(ov.PartialShape([1, -1, 4]), np.float32, name="boxes")
    scores = ops.parameter(ov.PartialShape([1, 1, -1]), np.float32, name="scores")
    limit = ops.parameter([], np.int64, name="limit")
    iou = ops.parameter([], np.float32, name="iou")
    parameters = [boxes, scores, limit, iou]
    for parameter in parameters:
        parameter.output(0).set_names({parameter.get_friendly_name()})
    kept = ops.non_max_suppression(*parameters, ops.constant(np.float32(-np.inf)))
    model = ov.Model([ops.result(kept.output(0))], parameters, "suppression")
    return core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})


def _candidates(scores: Floats, options: PostprocessOptions, most: int) -> tuple[Indices, Indices]:
    """[N, nc] scores -> locations and classes of the ``most`` best above the confidence.

    Best first, and of equal scores by location, then class.
    """
    rows = np.flatnonzero((scores > options.confidence).any(axis=1))
    scores = scores[rows]
    if options.multi_label:
        places, class_ids = np.nonzero(scores > options.confidence)
    else:
        places, class_ids = np.arange(len(rows)), scores.argmax(axis=1)
    best = _best(scores[places, class_ids], most)
    return rows[places[best]], class_ids[best]


def _best(scores: Floats, most: int) -> Indices:
    """Where the ``most`` highest of (n,) are, best first, and of equal ones the first."""
    some = np.arange(len(scores))
    if len(scores) > most:
        some = np.flatnonzero(scores >= np.partition(scores, -most)[-most])
    return some[np.argsort(-scores[some], kind="stable")[:most]]


def _corners(boxes_cxcywh: Floats) -> Floats:
    """[4, n] centre and size -> [n, 4] corners."""
    centre, half = boxes_cxcywh[:2], boxes_cxcywh[2:] / 2
    return np.concatenate([centre - half, centre + half]).T
