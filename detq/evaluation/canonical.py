"""Numbers and an order for what is scored that depend on contents alone.

pycocotools goes through images by their ids, and breaks ties between equal scores, and between
equal overlaps, by that order. A data set that is renamed, renumbered or written in another format
would otherwise have another mAP in some late digit.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from detq.data.annotation import ImageRecord
from detq.records import Detections


def renumber_categories(document: dict[str, Any], number_of: Mapping[int, int]) -> dict[str, Any]:
    """A COCO document with other category ids; categories of one name are told apart by theirs."""
    names = [category["name"] for category in document["categories"]]
    categories = [{"id": key, "name": name} for key, name in named(names, number_of).items()]
    annotations = [
        {**item, "category_id": number_of[item["category_id"]]} for item in document["annotations"]
    ]
    return {**document, "categories": categories, "annotations": annotations}


def named(names: Sequence[str], number_of: Mapping[int, int]) -> dict[int, str]:
    """Number -> name, in the order of the numbers; the second of one name is called by its own."""
    seen: set[str] = set()
    name_of = {}
    for number, name in sorted((number_of[index], name) for index, name in enumerate(names)):
        name_of[number] = f"{name} #{number}" if name in seen else name
        seen.add(name)
    return name_of


def numbered_by_place(document: dict[str, Any], images: Sequence[ImageRecord]) -> dict[str, Any]:
    """A COCO document of ``images``, whose ids are their places in it, from 1 on.

    The objects of each are in an order of their own. Their ids stay, because the id 0 means
    something (:class:`detq.evaluation.protocol.Protocol`).
    """
    place_of = {image.image_id: place for place, image in enumerate(images, start=1)}
    annotations = [
        {**item, "image_id": place_of[item["image_id"]]}
        for item in sorted(document["annotations"], key=_object_key)
    ]
    return {
        **document,
        "images": [{"id": place} for place in place_of.values()],
        "annotations": annotations,
    }


def content_keys(document: dict[str, Any], detections: Sequence[Detections]) -> list[bytes]:
    """By what images are sorted: what was found in each, and its objects in ``document``, which is
    :func:`numbered_by_place`. Where both are the same, the order changes nothing.
    """
    objects: dict[int, list[tuple[object, ...]]] = defaultdict(list)
    for item in document["annotations"]:
        objects[item["image_id"]].append(_object_key(item))
    return [_key(found, objects[place]) for place, found in enumerate(detections, start=1)]


def _key(found: Detections, objects: Sequence[tuple[object, ...]]) -> bytes:
    """The best box, which hardly ever is two images', then a digest of everything."""
    everything = hashlib.blake2b(repr(objects).encode(), digest_size=16)
    for array in (found.boxes_xyxy_px, found.scores, found.class_ids):
        everything.update(array.tobytes())
    return found.boxes_xyxy_px[:1].tobytes() + everything.digest()


def _object_key(item: Mapping[str, Any]) -> tuple[object, ...]:
    box = tuple(item["bbox"])
    return item["category_id"], box, item["area"], item["iscrowd"], item["id"] == 0
