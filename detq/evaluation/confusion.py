"""What objects are taken for: a confusion matrix of detections, of any images at a time.

Average precision looks at one class after the other. Its matches at IoU 0.5 are the right
detections here, too. What they leave over is matched across classes: in order of scores, each
detection takes the object that it overlaps most. Then an object that is left is missed, and a
detection that is left is background taken for an object. So the diagonal, the sum of a row and
the sum of a column are the true positives, the objects and the detections that precision, recall
and F1 at this confidence rest on (all but the object 0 that YOLOv6's protocol takes for missed,
:class:`detq.evaluation.protocol.Protocol`: here it is found).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

IOU = 0.5
CONFIDENCE = 0.25
"""A detection counts from this score on; customary, and the default of ``detq predict``."""
BACKGROUND = np.iinfo(np.uint32).max
"""In place of a category."""
PAIRS = np.dtype([("object", np.uint32), ("detection", np.uint32), ("count", np.uint64)])

Item = Mapping[str, Any]


@dataclass
class _Leftover:
    """Of one image: what no match within a class took."""

    objects: list[Item] = field(default_factory=list)
    detections: list[Item] = field(default_factory=list)


def confused(evaluation: COCOeval) -> npt.NDArray[Any]:
    """An evaluated COCOeval -> pairs (object's category, detection's category, count).

    Crowds, and what is ignored because of them, count neither way.
    """
    counts: dict[tuple[int, int], int] = defaultdict(int)
    leftovers: dict[int, _Leftover] = defaultdict(_Leftover)
    images, areas = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    for place, category in enumerate(evaluation.params.catIds):
        start = place * areas * images  # the first area is all
        for one in evaluation.evalImgs[start : start + images]:
            if one is not None:
                counts[category, category] += _sort_out(evaluation, one, leftovers)
    for left in leftovers.values():
        for pair in _across_classes(left.objects, left.detections):
            counts[pair] += 1
    rows = [(*pair, count) for pair, count in sorted(counts.items()) if count]
    return np.array(rows, PAIRS)


def merged(parts: Sequence[npt.NDArray[Any]]) -> dict[tuple[int, int], int]:
    """The same of all images, by (object's category, detection's category)."""
    counts: dict[tuple[int, int], int] = defaultdict(int)
    for part in parts:
        for row, column, count in part.tolist():
            counts[row, column] += count
    return dict(sorted(counts.items()))


def _sort_out(evaluation: COCOeval, one: Item, leftovers: Mapping[int, _Leftover]) -> int:
    """How many detections of a category in an image are right; the others are left over.

    Asked are the objects, by what they were found: what a detection found is an object's id, and
    pycocotools takes 0 for nothing.
    """
    counted = {
        number
        for number, score in zip(one["dtIds"], one["dtScores"], strict=True)
        if score >= CONFIDENCE
    }
    right = set()
    left = leftovers[one["image_id"]]
    for number, finder, ignored in zip(
        one["gtIds"], one["gtMatches"][0], one["gtIgnore"], strict=True
    ):
        if ignored:
            continue
        if finder in counted:
            right.add(int(finder))
        else:
            left.objects.append(evaluation.cocoGt.anns[number])
    for number, ignored in zip(one["dtIds"], one["dtIgnore"][0], strict=True):
        if number in counted and number not in right and not ignored:
            left.detections.append(evaluation.cocoDt.anns[number])
    return len(right)


def _across_classes(objects: Sequence[Item], detections: Sequence[Item]) -> list[tuple[int, int]]:
    """What is left of an image -> (object's category, detection's category) of each."""
    pairs = []
    free = dict(enumerate(objects))
    best_first = sorted(detections, key=lambda item: -item["score"])
    overlaps = np.zeros((len(best_first), len(objects)))
    if free and best_first:
        boxes = [[item["bbox"] for item in items] for items in (best_first, objects)]
        overlaps = np.asarray(mask.iou(*boxes, [0] * len(objects)))
    for detection, row in zip(best_first, overlaps, strict=True):
        place = max(free, key=row.__getitem__, default=None)
        if place is not None and row[place] >= IOU:
            pairs.append((free.pop(place)["category_id"], detection["category_id"]))
        else:
            pairs.append((BACKGROUND, detection["category_id"]))
    return [*pairs, *((item["category_id"], BACKGROUND) for item in free.values())]
