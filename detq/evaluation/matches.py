"""Which detections of an image are right, in the few bytes that average precision needs of them.

pycocotools wants all images at once. Here it judges some at a time, on any machine, and what is
kept is a row for each detection; its own accumulation then sees the rows of all images, class by
class, in the order in which it would have seen the images.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from detq.errors import DataError
from detq.evaluation.confusion import confused

_PARAMS = Params("bbox")
IOUS_OF_COCO: npt.NDArray[np.float64] = _PARAMS.iouThrs
IOUS, AREAS = len(IOUS_OF_COCO), len(_PARAMS.areaRng)
LIMITS: tuple[int, ...] = tuple(_PARAMS.maxDets)
"""Average recall is that of so many detections of a class in an image; of more, none counts."""
_VERDICTS = 2 * AREAS * IOUS
_ROW = np.dtype(
    [
        *(("image", np.uint32), ("category", np.uint32), ("score", np.float64)),
        ("verdicts", np.uint8, _VERDICTS // 8),
    ]
)


@dataclass(frozen=True, eq=False)
class Matches:
    """The detections of some images.

    ``keys`` say in which order the images count (:func:`detq.evaluation.canonical.content_keys`).
    ``rows`` are the detections: the number of their image among these, the category, the score, and
    as bits [2, area, IoU] whether they match an object, and whether they count neither way.
    ``objects`` are by category how many objects of each area can be found, int64 [area].
    ``pairs`` are what objects are taken for (:func:`detq.evaluation.confusion.confused`).
    """

    keys: tuple[bytes, ...]
    rows: npt.NDArray[Any]
    objects: Mapping[int, npt.NDArray[np.int64]]
    pairs: npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Accumulated:
    """All detections of a category, as average precision sees them; -1 is no object to find.

    ``precision`` float64 [IoU, recall, area] as pycocotools' ``accumulate`` has it, ``recall``
    float64 [limit, IoU, area] with so many detections per image (:data:`LIMITS`), ``objects`` int64
    [area]. Of those that count at the lowest IoU and any area: ``scores`` float64 [n], best first,
    and ``right`` bool [n].
    """

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    objects: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]


def match(
    ground_truth: dict[str, Any],
    entries: list[dict[str, Any]],
    *,
    keys: Sequence[bytes] | None = None,
) -> Matches:
    """COCO instances document and result entries -> what matches in each image.

    ``keys`` belong to the images by their ids' order, which counts without them. Raises DataError
    for an entry of an unknown image or category.
    """
    _check_ids(ground_truth, entries)
    numbered = [
        {**entry, "id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for number, entry in enumerate(entries, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = _index(ground_truth)
        evaluation = COCOeval(truth, _index({**ground_truth, "annotations": numbered}), "bbox")
        evaluation.evaluate()
    categories, images = evaluation.params.catIds, len(evaluation.params.imgIds)
    judged = iter(evaluation.evalImgs)  # by category, area, image
    rows, objects = [np.empty(0, _ROW)], {}
    for category in categories:
        by_area = [[next(judged) for _ in range(images)] for _ in range(AREAS)]
        seen = [(n, one) for n, one in enumerate(zip(*by_area, strict=True)) if one[0] is not None]
        rows.extend(_rows(number, category, one) for number, one in seen)
        counted = [[np.count_nonzero(area["gtIgnore"] == 0) for area in one] for _, one in seen]
        objects[category] = np.array(counted, np.int64).reshape(-1, AREAS).sum(axis=0)
    ordered = keys or [number.to_bytes(8, "big") for number in range(images)]
    return Matches(tuple(ordered), np.concatenate(rows), objects, confused(evaluation))


def accumulate(parts: Sequence[Matches]) -> Iterator[tuple[int, Accumulated]]:
    """Category after category, each with what is known of all its detections."""
    starts = np.cumsum([0, *(len(part.keys) for part in parts)])
    keys = [key for part in parts for key in part.keys]
    place_of = np.empty(len(keys), np.int64)
    place_of[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    for category in sorted({category for part in parts for category in part.objects}):
        # One category after another: all at once, their bits as bytes would fill the memory.
        own = [part.rows[part.rows["category"] == category] for part in parts]
        rows = np.concatenate(own)
        places = np.concatenate(
            [place_of[start + rows_["image"]] for start, rows_ in zip(starts, own, strict=False)]
        )
        objects = sum(part.objects[category] for part in parts if category in part.objects)
        order = np.argsort(places, kind="stable")
        yield category, _accumulated(rows[order], places[order], np.asarray(objects))


def verdicts_of_all_sizes(
    rows: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Rows of :class:`Matches` -> whether they match an object, and whether they count neither way,
    both bool [IoU, n], where objects of all sizes are looked for.
    """
    matched, ignored = _verdicts(rows)[:, 0]
    return matched, ignored


def _verdicts(rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """[2, area, IoU, n]"""
    bits = np.unpackbits(rows["verdicts"], axis=1, count=_VERDICTS).T
    return bits.view(np.bool_).reshape(2, AREAS, IOUS, len(rows))


def _rows(image: int, category: int, by_area: Sequence[Mapping[str, Any]]) -> npt.NDArray[Any]:
    """Of one category's detections in an image, best score first."""
    rows = np.empty(len(by_area[0]["dtScores"]), _ROW)
    rows["image"], rows["category"], rows["score"] = image, category, by_area[0]["dtScores"]
    verdicts = [[area[key] != 0 for area in by_area] for key in ("dtMatches", "dtIgnore")]
    bits = np.array(verdicts, np.bool_).reshape(_VERDICTS, len(rows))
    rows["verdicts"] = np.packbits(bits, axis=0).T
    return rows


def _accumulated(
    rows: npt.NDArray[Any], places: npt.NDArray[np.int64], objects: npt.NDArray[np.int64]
) -> Accumulated:
    """``places`` are those of the rows' images, in order."""
    matched, ignored = _verdicts(rows)
    rank = np.arange(len(places)) - np.searchsorted(places, places)
    recall = np.full((len(LIMITS), IOUS, AREAS), -1.0)
    for area in np.flatnonzero(objects):
        found = matched[area] & ~ignored[area]
        for number, limit in enumerate(LIMITS):
            recall[number, :, area] = np.count_nonzero(found & (rank < limit), 1) / objects[area]
    order = np.argsort(-rows["score"], kind="stable")
    order = order[~ignored[0, 0, order]]
    return Accumulated(
        precision=_precision(rows["score"], matched, ignored, objects),
        recall=recall,
        objects=objects,
        scores=rows["score"][order],
        right=matched[0, 0, order],
    )


def _precision(
    scores: npt.NDArray[np.float64],
    matched: npt.NDArray[np.bool_],
    ignored: npt.NDArray[np.bool_],
    objects: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    evaluation = COCOeval(iouType="bbox")
    params = evaluation.params
    # One image that holds them all: where each image's detections end was decided before.
    params.imgIds, params.catIds, params.maxDets = [0], [0], [max(len(scores), 1)]
    evaluation.evalImgs = [
        {
            "dtScores": scores,
            "dtMatches": matched[area],
            "dtIgnore": ignored[area],
            "gtIgnore": np.zeros(objects[area], np.bool_),
        }
        for area in range(AREAS)
    ]
    evaluation._paramsEval = params
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"][:, :, 0, :, 0])


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
