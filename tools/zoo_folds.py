"""What is lost on twice the images, and whether the classes that lose most are the same ones.

    python tools/zoo.py tools/zoo.yaml --root ../shared
    python tools/zoo.py tools/zoo.yaml --root ../shared --swap
    python tools/zoo_folds.py tools/zoo.yaml --root ../shared

Reads what the two runs kept: each half of the images judged by networks that were calibrated on the
other. Prints a row for each detector and recipe that both have: the loss over all images, with the
95% interval of the bootstrap over them, paired with float, and that of each half; in classes of ten
objects and more; the worst class of each half, with what it loses in the other; and the rank
correlation (Spearman) of the classes' losses in the halves, which is none if it depends on the
images alone which class loses, beside that of the seeds, which have other calibration images and
the same test images.
By YOLOv6's protocol, which is the default, the first object of each half counts as missed, as in
every split. Detections of both halves are ranked together, so what all images lose need not lie
between what the halves lose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from operator import itemgetter
from statistics import mean
from typing import NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr
from zoo import Zoo, errors_in_one_line, results_of, zoo_parser
from zoo_measuring import RESAMPLES
from zoo_plan import read_plan
from zoo_results import FLOAT, Key, Results, Row
from zoo_table import (
    ClassLoss,
    Floats,
    Loss,
    escaped,
    frequent_cell,
    loss_of,
    markdown_head,
    markdown_row,
    mean_cell,
    mean_loss,
    named,
    points_lost,
    worst_cell,
)

from detq.errors import DetqError
from detq.evaluation.resampling import ImageMatches, average_precisions, draw, mean_over_classes

CORRELATIONS = ("rank correlation of the halves", "of the seeds")
HEADINGS = (
    *("model", "recipe", "mAP", "loss of all [95% interval]", "of each half"),
    *("in classes of 10 objects and more", "the worst of these"),
    *("worst of the first half, and in the second", "worst of the second, and in the first"),
    *CORRELATIONS,
)
MEANS = (
    *("recipe", "detectors", "mean loss", "greatest", "in classes of 10 objects and more"),
    *("worst classes of one half, mean", "the same in the other", *CORRELATIONS),
)

LEAST_CLASSES = 10


def main() -> None:
    given = zoo_parser(__doc__).parse_args()
    with errors_in_one_line():
        plan, results = read_plan(given.config), results_of(given)
        swapped = results_of(given, swapped=True)
        first = Half(results, Zoo(plan, results, root=given.root).rows())
        second = Half(swapped, Zoo(plan.swapped(), swapped, root=given.root).rows())
        if not any(_in_both(first, second)):
            raise DetqError(
                f"{given.config}: no detector is measured both in {results.path} and in "
                f"{swapped.path}; run tools/zoo.py on it, and again with --swap"
            )
        print("\n".join([*table(first, second)]))


class Half(NamedTuple):
    """The rows of one run of the zoo."""

    results: Results
    rows: Mapping[Key, Row]

    def matches(self, key: Key) -> ImageMatches:
        """How a row's detections match, image by image."""
        arrays = self.results.arrays(key)
        return ImageMatches(arrays["rows"], arrays["objects"], arrays["categories"])

    def loss(self, model: str, recipe: str, seeds: Sequence[int]) -> Loss:
        """Of this half alone."""
        rows = [self.rows[model, recipe, seed] for seed in seeds]
        return loss_of(self.results, self.rows[model, FLOAT, 0], rows)


@dataclass(frozen=True, eq=False)
class Both:
    """A recipe's loss over all images, beside that of each half, and float's mAP over all.

    ``seeds`` float64 [seeds, classes] are the losses of classes with each choice of calibration
    images; NaN for a class without objects.
    """

    score: float
    loss: Loss
    halves: tuple[Loss, Loss]
    seeds: Floats

    @property
    def of_halves(self) -> float | None:
        """The rank correlation of the losses of the classes that both halves have objects of."""
        first, second = ({one.name: one.points for one in half.classes} for half in self.halves)
        names = sorted(first.keys() & second.keys())
        return _correlation([first[name] for name in names], [second[name] for name in names])

    @property
    def of_seeds(self) -> float | None:
        """That of two choices of calibration images on the same test images, the mean of pairs."""
        known = self.seeds[:, ~np.isnan(self.seeds).any(axis=0)]
        found = [_correlation(*pair) for pair in combinations(known, 2)]
        some = [one for one in found if one is not None]
        return mean(some) if some else None


def table(first: Half, second: Half) -> Iterator[str]:
    """One row for each detector and recipe, then the means of the recipes."""
    yield from markdown_head(HEADINGS)
    found: dict[str, list[Both]] = {}
    for model, some in groupby(_in_both(first, second), key=itemgetter(0)):
        exact = AllImages.of(first, second, (model, FLOAT, 0))
        for _, recipe, seeds in some:
            one = both(first, second, exact, model, recipe, seeds)
            found.setdefault(recipe, []).append(one)
            yield markdown_row([model, named(recipe), *_cells(one)])
    yield ""
    yield from _means(found)


class AllImages(NamedTuple):
    """What a row finds in both halves together.

    ``precisions`` float64 [1 + resamples, classes] are the average precisions of the images as they
    are, then of resamples of them; ``objects`` int64 [classes] can be found.
    """

    precisions: Floats
    objects: npt.NDArray[np.int64]

    @classmethod
    def of(cls, first: Half, second: Half, key: Key) -> AllImages:
        """Raises DetqError for halves that were judged by other classes."""
        halves = first.matches(key), second.matches(key)
        if not np.array_equal(*(one.categories for one in halves)):
            raise DetqError(f"{key[0]}: its halves have other classes; measure both again")
        before = len(halves[0].objects)
        rows = halves[1].rows.copy()
        rows["image"] += before
        matches = ImageMatches(
            rows=np.concatenate([halves[0].rows, rows]),
            objects=np.concatenate([one.objects for one in halves]),
            categories=halves[0].categories,
        )
        images = len(matches.objects)
        seed = crc32(f"{images} images".encode())  # the same for all that have as many
        drawn = draw(images, resamples=RESAMPLES, seed=seed)
        weights = np.concatenate([np.ones_like(drawn[:1]), drawn])
        return cls(average_precisions(matches, weights), matches.objects.sum(axis=0))


def both(
    first: Half, second: Half, exact: AllImages, model: str, recipe: str, seeds: Sequence[int]
) -> Both:
    """The mean of the seeds against float's ``exact``, as every loss of the zoo."""
    int8 = [AllImages.of(first, second, (model, recipe, seed)).precisions for seed in seeds]
    by_class = exact.precisions - np.mean(int8, axis=0)
    scores = mean_over_classes(exact.precisions)
    lost = scores - np.mean([mean_over_classes(one) for one in int8], axis=0)
    names = first.rows[model, FLOAT, 0]["classes"]
    classes = [
        ClassLoss(name, float(by_class[0, place]), count, by_class[1:, place])
        for place, (name, count) in enumerate(zip(names, exact.objects.tolist(), strict=True))
        if count
    ]
    ordered = tuple(sorted(classes, key=lambda one: -one.points))
    halves = first.loss(model, recipe, seeds), second.loss(model, recipe, seeds)
    each = np.array([(exact.precisions - one)[0] for one in int8])
    return Both(float(scores[0]), Loss(float(lost[0]), lost[1:], ordered), halves, each)


def _in_both(first: Half, second: Half) -> Iterator[tuple[str, str, list[int]]]:
    """Detectors, recipes and the seeds that both halves have; a detector's stand together."""
    common = [
        key
        for key, row in first.rows.items()
        if row.get("measure") == second.rows.get(key, {}).get("measure") == "mAP"
    ]
    for model, recipe in dict.fromkeys(key[:2] for key in common if key[1] != FLOAT):
        if (model, FLOAT, 0) in common:
            yield model, recipe, [key[2] for key in common if key[:2] == (model, recipe)]


def _cells(one: Both) -> list[str]:
    halves = one.halves
    return [
        f"{one.score:.2f}",
        points_lost(one.loss.points, one.loss.resampled),
        ", ".join(f"{half.points:+.2f}" for half in halves),
        frequent_cell(one.loss.frequent),
        worst_cell(one.loss.frequent),
        *(_elsewhere(own, other) for own, other in (halves, halves[::-1])),
        *_correlation_cells([one]),
    ]


def _elsewhere(own: Loss, other: Loss) -> str:
    if not own.frequent:
        return ""
    worst = own.frequent[0]
    again = next((one for one in other.classes if one.name == worst.name), None)
    where = "no object" if again is None else f"{again.points:+.1f} ({again.objects})"
    return f"{escaped(worst.name)} {worst.points:+.1f} ({worst.objects}), {where}"


def _means(found: Mapping[str, Sequence[Both]]) -> Iterator[str]:
    """Over detectors; those with as many images share their resamples."""
    yield from markdown_head(MEANS)
    for recipe, some in found.items():
        pairs = list(_worst_pairs(some))
        cells = [
            mean_cell([(one.loss.points, one.loss.resampled) for one in some]),
            f"{max(one.loss.points for one in some):+.2f}",
            mean_cell([mean_loss(one.loss.frequent) for one in some if one.loss.frequent]),
            *(f"{mean(pair[n] for pair in pairs):+.1f}" if pairs else "" for n in (0, 1)),
            *_correlation_cells(some),
        ]
        yield markdown_row([named(recipe), str(len(some)), *cells])


def _correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Of ranks; None of a handful of classes, or where all lose the same."""
    if len(one) < LEAST_CLASSES or min(np.ptp(one), np.ptp(other)) == 0:
        return None
    return float(spearmanr(one, other).statistic)


def _correlation_cells(some: Sequence[Both]) -> Iterator[str]:
    for each in ([one.of_halves for one in some], [one.of_seeds for one in some]):
        known = [value for value in each if value is not None]
        yield f"{mean(known):+.2f}" if known else ""


def _worst_pairs(some: Sequence[Both]) -> Iterator[tuple[float, float]]:
    """What the worst class of one half loses there, and in the other where that has objects."""
    for one in some:
        for own, other in (one.halves, one.halves[::-1]):
            again = {each.name: each.points for each in other.classes}
            if own.frequent and own.frequent[0].name in again:
                yield own.frequent[0].points, again[own.frequent[0].name]


if __name__ == "__main__":
    main()
