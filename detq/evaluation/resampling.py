"""How far average precision depends on which images were drawn: the bootstrap over images.

A resample draws as many images as there are, with replacement. COCO's average precision of it
needs no inference and no matching: how the detections of an image match depends on that image
alone, so that an image that was drawn k times counts k times in the accumulation, and one that was
not drawn does not count. Two models are compared on the same resamples (paired bootstrap; Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.cocoeval import Params

from detq.errors import DataError
from detq.evaluation.matches import IOUS, Matches, verdicts_of_all_sizes

RECALLS: npt.NDArray[np.float64] = Params("bbox").recThrs
_MOST_VALUES = 1 << 22
"""Of an intermediate result: 32 MB."""
_EPSILON = np.spacing(1)

Weights = npt.NDArray[np.int64]
"""[resamples, images]: how often each image was drawn."""


@dataclass(frozen=True, eq=False)
class ImageMatches:
    """How detections match, image by image, for all sizes of objects.

    ``rows`` are the detections (:class:`~detq.evaluation.matches.Matches`), ``image`` in them the
    number of their image; they are in the order in which pycocotools sees them among equal scores.
    ``objects`` int64 [images, categories] can be found, of the ``categories`` int64 [categories].
    """

    rows: npt.NDArray[Any]
    objects: npt.NDArray[np.int64]
    categories: npt.NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[Matches]) -> ImageMatches:
        """Parts of one image each. Raises DataError for others, and for none."""
        if not parts or any(len(part.keys) != 1 for part in parts):
            raise DataError("resampling: expected the matches of one image at a time")
        categories = sorted({category for part in parts for category in part.objects})
        objects = np.zeros((len(parts), len(categories)), np.int64)
        rows = []
        for number, part in enumerate(parts):
            for place, category in enumerate(categories):
                if category in part.objects:
                    objects[number, place] = part.objects[category][0]
            own = part.rows.copy()
            own["image"] = number
            rows.append(own)
        order = sorted(range(len(parts)), key=lambda number: parts[number].keys[0])
        ordered = np.concatenate([rows[number] for number in order])
        return cls(ordered, objects, np.array(categories, np.int64))


def draw(images: int, *, resamples: int, seed: int = 0) -> Weights:
    """How often each of so many images is in each resample: int64 [resamples, images]."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=resamples)


def average_precisions(matches: ImageMatches, weights: Weights) -> npt.NDArray[np.float64]:
    """COCO's AP over IoU 0.50 to 0.95, in percent: float64 [resamples, categories].

    NaN where a resample has no object of a category. The figures are those of pycocotools for a
    data set in which every image stands as often as ``weights`` say. (Where detections of one image
    have equal scores, it would go through copies of that image one after another, here one
    detection counts for all copies before the next.) Raises DataError unless there is a weight for
    every image.
    """
    images = len(matches.objects)
    if weights.shape[1:] != (images,):
        raise DataError(f"resampling: weights {weights.shape} for {images} images")
    found = np.full((len(weights), len(matches.categories)), np.nan)
    objects = weights @ matches.objects
    for place, category in enumerate(matches.categories):
        rows = matches.rows[matches.rows["category"] == category]
        rows = rows[np.argsort(-rows["score"], kind="stable")]
        matched, ignored = verdicts_of_all_sizes(rows)
        step = max(1, _MOST_VALUES // max(1, len(rows)))
        for start in range(0, len(weights), step):
            some = slice(start, start + step)
            own = weights[some][:, rows["image"]]
            at_ious = _at_ious(own, objects[some, place], matched, ignored)
            found[some, place] = 100 * np.mean(list(at_ious), axis=0)
    return np.where(objects > 0, found, np.nan)


def mean_over_classes(
    average_precision: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """[resamples, categories] -> mAP float64 [resamples]: the mean of what has objects.

    NaN for a resample without any.
    """
    known = ~np.isnan(average_precision)
    total = np.where(known, average_precision, 0.0).sum(axis=1)
    count = known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interval(values: npt.NDArray[np.float64], *, percent: float = 95.0) -> tuple[float, float]:
    """Between the quantiles that leave so many percent; NaN is left out.

    Raises DataError if nothing else is there.
    """
    known = values[~np.isnan(values)]
    if not known.size:
        raise DataError("resampling: no resample has an object")
    low, high = np.percentile(known, [50 - percent / 2, 50 + percent / 2])
    return float(low), float(high)


def _at_ious(
    weights: Weights,
    objects: npt.NDArray[np.int64],
    matched: npt.NDArray[np.bool_],
    ignored: npt.NDArray[np.bool_],
) -> Iterator[npt.NDArray[np.float64]]:
    """AP float64 [resamples], 0..1, at each IoU.

    ``weights`` [resamples, n] of the detections, best score first; the others [IoU, n].
    Only rows that match matter: at all others precision falls and recall stays.
    """
    before, counted = None, np.empty(0)
    for number in range(IOUS):
        if before is None or not np.array_equal(ignored[number], before):
            before = ignored[number]
            counted = np.cumsum(np.where(before, 0, weights), axis=1)  # true and false positives
        right = np.flatnonzero(matched[number] & ~ignored[number])
        true = np.cumsum(weights[:, right], axis=1)
        precision = true / (counted[:, right] + _EPSILON)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = true / np.maximum(objects, 1)[:, None]
        reached = np.searchsorted(RECALLS, recall.ravel(), side="right").reshape(recall.shape)
        newly = np.diff(reached, axis=1, prepend=0)
        yield (newly * precision).sum(axis=1) / len(RECALLS)
