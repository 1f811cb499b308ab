"""COCO mAP of detections against ground truth, as pycocotools computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detq.errors import DataError
from detq.evaluation.matches import IOUS_OF_COCO, Matches, accumulate, match
from detq.records import Detections

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)


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
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    return score_matches([match(ground_truth, entries)], names)


def score_matches(parts: Sequence[Matches], names: Mapping[int, str]) -> CocoScores:
    """The scores of all images, whatever parts they were judged in; ``names`` are by category."""
    by_category = accumulate(parts)
    precision = np.stack(list(by_category.values()), axis=2)  # [IoU, recall, category, area]
    return CocoScores(
        map=_mean(precision[..., _ALL]),
        map50=_mean(precision[IOUS_OF_COCO == 0.5][..., _ALL]),
        map75=_mean(precision[IOUS_OF_COCO == 0.75][..., _ALL]),
        map_small=_mean(precision[..., _SMALL]),
        map_medium=_mean(precision[..., _MEDIUM]),
        map_large=_mean(precision[..., _LARGE]),
        per_class={names[category]: _mean(one[..., _ALL]) for category, one in by_category.items()},
    )


def _mean(precision: npt.NDArray[np.float64]) -> float | None:
    """In percent, of classes that have an object."""
    known = precision[precision > -1]
    return 100 * float(np.mean(known)) if known.size else None
