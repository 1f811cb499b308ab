"""Numbers and an order for what is scored that depend on contents alone.

pycocotools goes through images by their ids, and breaks ties between equal scores, and between
equal overlaps, by that order. A data set that is renamed, renumbered or written in another format
would otherwise have another mAP in some late digit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from detq.data.annotation import ImageRecord
from detq.records import Detections


def renumber_categories(document: dict[str, Any], number_of: Mapping[int, int]) -> dict[str, Any]:
    """A COCO document with other category ids; categories of one name are told apart by theirs."""
    categories: list[dict[str, Any]] = []
    names: set[str] = set()
    for category in sorted(document["categories"], key=lambda each: number_of[each["id"]]):
        number, name = number_of[category["id"]], category["name"]
        categories.append({"id": number, "name": f"{name} #{number}" if name in names else name})
        names.add(name)
    annotations = [
        {**item, "category_id": number_of[item["category_id"]]} for item in document["annotations"]
    ]
    return {**document, "categories": categories, "annotations": annotations}


def ordered_by_content(
    document: dict[str, Any], images: Sequence[ImageRecord], detections: Sequence[Detections]
) -> tuple[dict[str, Any], list[int]]:
    """A COCO document whose images, and the objects in each, are numbered in an order of their own.

    Images are sorted by what was found in them and by their objects; where both are the same, their
    order changes nothing. Object ids stay, because the id 0 means something
    (:class:`detq.evaluation.protocol.Protocol`). Also returned are the new ids of the images.
    """
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for item in sorted(document["annotations"], key=_object_key):
        objects[item["image_id"]].append(item)

    def key(position: int) -> tuple[object, ...]:
        found = detections[position]
        arrays = (found.boxes_xyxy_px, found.scores, found.class_ids)
        truth = [_object_key(item) for item in objects[images[position].image_id]]
        return (*(array.tobytes() for array in arrays), truth)

    order = sorted(range(len(images)), key=key)
    number_of = {position: number for number, position in enumerate(order, start=1)}
    annotations = [
        {**item, "image_id": number_of[position]}
        for position in order
        for item in objects[images[position].image_id]
    ]
    return {
        **document,
        "images": [{"id": number} for number in sorted(number_of.values())],
        "annotations": annotations,
    }, [number_of[position] for position in range(len(images))]


def _object_key(item: Mapping[str, Any]) -> tuple[object, ...]:
    return item["category_id"], tuple(item["bbox"]), item["area"], item["iscrowd"]
