"""How far one model finds what another finds: a proxy for mAP that needs no labels."""

from __future__ import annotations

from collections.abc import Sequence

from detq.errors import DataError
from detq.evaluation.coco_map import coco_detections, score_detections
from detq.records import Detections

MIN_SCORE = 0.25
"""A detection of the reference counts as an object from this score on."""


def agreement(
    reference: Sequence[Detections],
    candidate: Sequence[Detections],
    *,
    class_count: int,
    min_score: float = MIN_SCORE,
) -> float:
    """mAP, in percent, of ``candidate`` when what ``reference`` found is taken for the truth.

    Both hold the detections of the same images in the same order. Of the reference, only those with
    a score of at least ``min_score`` count as objects. Raises DataError if the numbers of images
    differ, or if the reference found nothing to compare with.
    """
    if len(reference) != len(candidate):
        raise DataError(f"reference saw {len(reference)} images, candidate {len(candidate)}")
    image_ids = range(1, len(reference) + 1)
    class_ids = range(class_count)
    objects = [
        {**entry, "id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for number, entry in enumerate(
            (
                entry
                for entry in coco_detections(image_ids, reference, category_ids=class_ids)
                if entry["score"] >= min_score
            ),
            start=1,
        )
    ]
    ground_truth = {
        "images": [{"id": image_id} for image_id in image_ids],
        "categories": [{"id": class_id, "name": str(class_id)} for class_id in class_ids],
        "annotations": objects,
    }
    entries = coco_detections(image_ids, candidate, category_ids=class_ids)
    overlap = score_detections(ground_truth, entries).map
    if overlap is None:
        raise DataError(
            f"the reference found nothing with a score of {min_score} or more in "
            f"{len(reference)} images; use other images or a lower threshold"
        )
    return overlap
