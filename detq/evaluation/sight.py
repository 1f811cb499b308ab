"""Does a detector see what the labels hold? A look at some images, before anything is measured."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detq.data.annotation import Annotations
from detq.data.dataset import Split
from detq.errors import DataError
from detq.evaluation.classes import map_classes
from detq.evaluation.evaluator import run_detector
from detq.records import Detections
from detq.runtime.detector import Detector

IMAGES = 16
OVERLAP = 0.5
"""Intersection over union from which a box is an object's."""


@dataclass(frozen=True)
class Sight:
    """``found`` of ``objects`` labelled ones have a box of their class, ``placed`` a box at all.

    ``overlap`` is the sum over the objects of the largest overlap with a box of their class.
    """

    images: int
    objects: int
    found: int
    placed: int
    overlap: float


def look(detector: Detector, split: Split) -> Sight | None:
    """What the detector finds of the first labelled images; None if that cannot be told.

    That is so without labels, with classes that the detector does not know, and if an image of
    these cannot be decoded.
    """
    truth = split.annotations or Annotations()
    counted = Annotations.from_rows(truth.rows[~truth.rows["is_crowd"]])
    shown = set(counted.rows["image_id"].tolist())
    images = [image for image in split.images if image.image_id in shown][:IMAGES]
    if not images:
        return None
    wanted = defaultdict(list)
    for annotation in counted.of_images([image.image_id for image in images]):
        wanted[annotation.image_id].append(annotation)
    try:
        classes = map_classes(detector.spec, split.class_names, annotated=truth.class_ids)
        run = run_detector(detector, [image.path for image in images])
    except DataError:
        return None
    if len(run.detections) != len(images):
        return None
    found = placed = 0
    overlap = 0.0
    for image, detections in zip(images, run.detections, strict=True):
        objects = wanted[image.image_id]
        boxes = np.array([each.box_xywh_px for each in objects], np.float32)
        overlaps = _overlaps(boxes, detections)
        labels = np.array([each.class_id for each in objects])
        given = np.array([-1 if c is None else c for c in classes])[detections.class_ids]
        own_class = np.where(labels[:, None] == given[None], overlaps, 0)
        placed += int((overlaps >= OVERLAP).any(1).sum())
        found += int((own_class >= OVERLAP).any(1).sum())
        overlap += float(own_class.max(1, initial=0).sum())
    objects_in_all = sum(len(wanted[image.image_id]) for image in images)
    return Sight(len(images), objects_in_all, found, placed, overlap)


def _overlaps(
    boxes_xywh: npt.NDArray[np.float32], detections: Detections
) -> npt.NDArray[np.float32]:
    """Intersection over union of [n, 4] objects with the detections, [n, m]."""
    low, high = boxes_xywh[:, None, :2], boxes_xywh[:, None, :2] + boxes_xywh[:, None, 2:]
    corners = detections.boxes_xyxy_px[None]
    sides = np.minimum(high, corners[..., 2:]) - np.maximum(low, corners[..., :2])
    shared = np.clip(sides, 0, None).prod(2)
    areas = boxes_xywh[:, 2:].prod(1)[:, None], (corners[..., 2:] - corners[..., :2]).prod(2)
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-9), np.float32)
