"""Detections to and from what other libraries call by that name.

Needs the library only for what it makes: ``supervision`` and ``fiftyone`` are imported when a value
of theirs is asked for. Class ids are those of ``ModelSpec.class_names``; boxes are in pixels of the
image, scores in 0..1.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from detq.errors import DataError, MissingLibraryError
from detq.records import Detections, SizeHW

CATEGORIES_FROM = 1
"""COCO's category ids begin there where nobody says otherwise, for the class with id 0."""


def to_supervision(found: Detections, class_names: Sequence[str] = ()) -> Any:
    """A ``supervision.Detections``; with names, its ``data["class_name"]`` holds each box's.

    Raises MissingLibraryError without supervision, DataError for a class without a name.
    """
    supervision = _library("supervision")
    names = [_name(class_names, each) for each in found.class_ids] if class_names else None
    return supervision.Detections(
        xyxy=found.boxes_xyxy_px.copy(),
        confidence=found.scores.copy(),
        class_id=found.class_ids.copy(),
        data={} if names is None else {"class_name": np.array(names, dtype=str)},
    )


def from_supervision(detections: Any) -> Detections:
    """Of a ``supervision.Detections``, best first. Raises DataError without scores or classes."""
    if len(detections) and (detections.confidence is None or detections.class_id is None):
        raise DataError("supervision: these detections have no confidence or no class_id")
    return _best_first(detections.xyxy, detections.confidence, detections.class_id)


def to_coco(
    found: Detections, image_id: int | str, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """COCO results, what ``COCO.loadRes`` takes of one image; boxes are x, y, width, height.

    ``category_ids`` are those of the classes by class id, by default 1, 2, …
    (:data:`detq.records.COCO_IDS` for COCO's 80). Raises DataError for a class without one.
    """
    columns = found.columns()
    return [
        coco_result(image_id, _category(category_ids, class_id), score, box)
        for class_id, score, box in zip(
            columns["class_ids"], columns["scores"], columns["boxes"], strict=True
        )
    ]


def coco_result(
    image_id: int | str, category_id: int | str, score: float, corners_px: Sequence[float]
) -> dict[str, Any]:
    """One line of COCO's results."""
    left, top, right, bottom = corners_px
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [left, top, right - left, bottom - top],
        "score": score,
    }


def from_coco(
    results: Iterable[Mapping[str, Any]], category_ids: Sequence[int] | None = None
) -> dict[int | str, Detections]:
    """COCO results, or annotations, whose score is 1, by image id; best first.

    Raises DataError for a category that is none of ``category_ids``, and for what is no result.
    """
    rows: dict[int | str, list[tuple[list[float], float, int]]] = {}
    for result in results:
        try:
            left, top, width, height = map(float, result["bbox"])
            image_id, category = result["image_id"], result["category_id"]
            score = float(result.get("score", 1.0))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"COCO results: {result!r:.100} lacks something ({error}); expected image_id, "
                "category_id, bbox of four numbers, score"
            ) from None
        box = [left, top, left + width, top + height]
        rows.setdefault(image_id, []).append((box, score, _class_id(category_ids, category)))
    return {image_id: _best_first(*zip(*some, strict=True)) for image_id, some in rows.items()}


def to_fiftyone(found: Detections, class_names: Sequence[str], image_hw: SizeHW) -> Any:
    """A ``fiftyone.Detections``, whose boxes are shares of the image of that height and width.

    Raises MissingLibraryError without FiftyOne, DataError for a class without a name.
    """
    fiftyone = _library("fiftyone")
    height, width = image_hw
    return fiftyone.Detections(
        detections=[
            fiftyone.Detection(
                label=_name(class_names, class_id),
                bounding_box=[x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
                confidence=float(score),
            )
            for (x1, y1, x2, y2), score, class_id in zip(
                found.boxes_xyxy_px.astype(float), found.scores, found.class_ids, strict=True
            )
        ]
    )


def from_fiftyone(detections: Any, class_names: Sequence[str], image_hw: SizeHW) -> Detections:
    """Of a ``fiftyone.Detections``, best first; one without confidence, as ground truth is, has 1.

    Raises DataError for a label that is none of the class names.
    """
    height, width = image_hw
    ids = {name: class_id for class_id, name in enumerate(class_names)}
    boxes, scores, class_ids = [], [], []
    for one in detections.detections:
        if one.label not in ids:
            raise DataError(f"FiftyOne: {one.label!r} is none of the classes")
        left, top, across, down = one.bounding_box
        boxes.append([
            left * width, top * height, (left + across) * width, (top + down) * height
        ])  # fmt: skip
        scores.append(1.0 if one.confidence is None else one.confidence)
        class_ids.append(ids[one.label])
    return _best_first(boxes, scores, class_ids)


def _best_first(boxes: Any, scores: Any, class_ids: Any) -> Detections:
    if len(boxes) == 0:
        boxes = scores = class_ids = ()
    values = np.asarray(scores, np.float32).reshape(-1)
    order = np.argsort(-values, kind="stable")
    corners = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Detections(corners[order], values[order], np.asarray(class_ids, np.int64)[order])


def _name(class_names: Sequence[str], class_id: int) -> str:
    if not 0 <= class_id < len(class_names):
        raise DataError(f"class {class_id}: has no name among {len(class_names)}")
    return class_names[class_id]


def _category(category_ids: Sequence[int] | None, class_id: int) -> int:
    if category_ids is None:
        return class_id + CATEGORIES_FROM
    if not 0 <= class_id < len(category_ids):
        raise DataError(f"class {class_id}: has no category id among {len(category_ids)}")
    return category_ids[class_id]


def _class_id(category_ids: Sequence[int] | None, category: Any) -> int:
    known = None if category_ids is None else list(category_ids)
    if known is None and isinstance(category, int) and category >= CATEGORIES_FROM:
        return category - CATEGORIES_FROM
    if known is None or category not in known:
        raise DataError(f"COCO results: category {category!r} belongs to no class")
    return known.index(category)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingLibraryError(f"{name}: is not installed; pip install {name}") from None
