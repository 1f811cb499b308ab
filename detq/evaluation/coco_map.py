"""COCO mAP of detections against ground truth, as pycocotools computes it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detq.errors import DataError
from detq.records import Detections

_AREA_ALL = 0
_HUNDRED_DETECTIONS = -1


@dataclass(frozen=True)
class CocoScores:
    """Average precision in percent, None where pycocotools says -1 (no object of that kind).

    ``map`` averages IoU thresholds 0.50 to 0.95; ``per_class`` is the same for each class by name.
    """

    map: float | None
    map50: float | None
    map75: float | None
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    per_class: dict[str, float | None]


def coco_detections(
    image_ids: Sequence[int],
    detections: Sequence[Detections],
    *,
    category_ids: Sequence[int | None],
) -> list[dict[str, Any]]:
    """Detections of each image -> COCO result entries: coordinates to 0.001 px, scores to 0.00001.

    ``category_ids`` gives the category of each model class; a class without one is left out.
    Raises DataError unless there is one value per image.
    """
    if len(image_ids) != len(detections):
        raise DataError(f"{len(image_ids)} images, but detections of {len(detections)}")
    entries: list[dict[str, Any]] = []
    for image_id, found in zip(image_ids, detections, strict=True):
        corners = found.boxes_xyxy_px.astype(np.float64)
        size = corners[:, 2:] - corners[:, :2]
        start = (corners[:, :2] + corners[:, 2:]) / 2 - size / 2
        boxes = np.concatenate([start, size], axis=1).round(3).tolist()
        scores = found.scores.astype(np.float64).round(5).tolist()
        for class_id, box, score in zip(found.class_ids.tolist(), boxes, scores, strict=True):
            category = category_ids[class_id]
            if category is not None:
                entries.append(
                    {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
                )
    return entries


def score_detections(ground_truth: dict[str, Any], entries: list[dict[str, Any]]) -> CocoScores:
    """COCO instances document and result entries -> their scores.

    Raises DataError for an entry of an unknown image or category.
    """
    _check_ids(ground_truth, entries)
    numbered = [
        {**entry, "id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for number, entry in enumerate(entries, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = _index(ground_truth)
        results = _index({**ground_truth, "annotations": numbered})
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"]  # [IoU, recall, category, area, detections]
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    overall, at50, at75, small, medium, large = map(_percent, evaluation.stats[:6])
    return CocoScores(
        map=overall,
        map50=at50,
        map75=at75,
        map_small=small,
        map_medium=medium,
        map_large=large,
        per_class={
            names[category]: _percent(precision[:, :, index, _AREA_ALL, _HUNDRED_DETECTIONS].mean())
            for index, category in enumerate(evaluation.params.catIds)
        },
    )


def _index(document: dict[str, Any]) -> COCO:
    index = COCO()
    copies = [dict(item) for item in document["annotations"]]  # pycocotools writes into them
    index.dataset = {**document, "annotations": copies}
    index.createIndex()
    return index


def _check_ids(ground_truth: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    for key, part in (("image_id", "images"), ("category_id", "categories")):
        unknown = {entry[key] for entry in entries} - {item["id"] for item in ground_truth[part]}
        if unknown:
            raise DataError(
                f"detections have the {key} {min(unknown)}, which the ground truth does not list"
            )


def _percent(share: float) -> float | None:
    return None if share < 0 else 100 * float(share)
