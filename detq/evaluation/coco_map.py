"""COCO mAP and mAR of detections against ground truth, as pycocotools computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detq.errors import DataError
from detq.evaluation.confusion import BACKGROUND, CONFIDENCE, IOU, merged
from detq.evaluation.matches import IOUS_OF_COCO, Accumulated, Matches, accumulate, match
from detq.records import STEPS, ClassScores, Confusion, Detections

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_CONFIDENCES = np.arange(STEPS) / (STEPS - 1)


@dataclass(frozen=True)
class CocoScores:
    """Average precision and recall in percent, None where pycocotools says -1 (no object of that
    kind): the twelve figures of its ``summarize``.

    ``map`` and ``mar100`` average IoU thresholds 0.50 to 0.95; ``mar1``, ``mar10`` and ``mar100``
    are the recall with so many detections per image and class. ``per_class`` is by name.
    """

    map: float | None
    map50: float | None
    map75: float | None
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    mar1: float | None
    mar10: float | None
    mar100: float | None
    mar_small: float | None
    mar_medium: float | None
    mar_large: float | None
    per_class: dict[str, ClassScores]
    confusion: Confusion


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
    by_name: dict[str, ClassScores] = {}
    tables = []
    for category, one in accumulate(parts):
        by_name[names[category]] = _class_scores(one)
        tables.append((one.precision, one.recall))
    precision = np.stack([table for table, _ in tables], axis=2)  # [IoU, recall, category, area]
    recall = np.stack([table for _, table in tables], axis=2)  # [limit, IoU, category, area]
    return CocoScores(
        map=_mean(precision[..., _ALL]),
        map50=_mean(precision[IOUS_OF_COCO == 0.5][..., _ALL]),
        map75=_mean(precision[IOUS_OF_COCO == 0.75][..., _ALL]),
        map_small=_mean(precision[..., _SMALL]),
        map_medium=_mean(precision[..., _MEDIUM]),
        map_large=_mean(precision[..., _LARGE]),
        mar1=_mean(recall[0, ..., _ALL]),
        mar10=_mean(recall[1, ..., _ALL]),
        mar100=_mean(recall[2, ..., _ALL]),
        mar_small=_mean(recall[2, ..., _SMALL]),
        mar_medium=_mean(recall[2, ..., _MEDIUM]),
        mar_large=_mean(recall[2, ..., _LARGE]),
        per_class=by_name,
        confusion=_confusion(parts, names),
    )


def _class_scores(one: Accumulated) -> ClassScores:
    objects = int(one.objects[_ALL])
    return ClassScores(
        map=_mean(one.precision[..., _ALL]),
        map50=_mean(one.precision[0, :, _ALL]),
        mar100=_mean(one.recall[-1, :, _ALL]),
        objects=objects,
        precision=tuple(one.precision[0, :, _ALL].tolist()) if objects else (),
        f1=tuple(f1_curve(one.scores, one.right, objects).tolist()) if objects else (),
    )


def f1_curve(
    scores: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], objects: int
) -> npt.NDArray[np.float64]:
    """Scores [n], best first, and which are right -> F1 [101] of those from 0.00, 0.01, … 1.00 on.

    ``objects`` there are to find, at least one.
    """
    kept = np.searchsorted(-scores, -_CONFIDENCES, side="right")
    found = np.concatenate([[0], np.cumsum(right)])[kept]
    return 2 * found / (kept + objects)


def _confusion(parts: Sequence[Matches], names: Mapping[int, str]) -> Confusion:
    place_of = {category: place for place, category in enumerate(sorted(names))}
    place_of[BACKGROUND] = len(names)
    counts = merged([part.pairs for part in parts])
    return Confusion(
        tuple(names[category] for category in sorted(names)),
        {(place_of[row], place_of[column]): count for (row, column), count in counts.items()},
        iou=IOU,
        confidence=CONFIDENCE,
    )


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    """In percent, of classes that have an object."""
    known = values[values > -1]
    return 100 * float(np.mean(known)) if known.size else None
