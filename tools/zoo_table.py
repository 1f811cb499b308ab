"""The rows of a zoo as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from zoo_plan import WITHOUT
from zoo_results import FLOAT, LATENCY, Key, Results, Row

from detq.api.judging import LEAST_AGREEMENT
from detq.evaluation.resampling import interval, mean_over_classes

Floats = npt.NDArray[np.float64]
NNCF = "nncf"
FREQUENT = 10
HEADINGS = (
    *("model", "recipe", "mAP or top-1", "loss [95% interval]", "worst class"),
    *(f"loss in classes of {FREQUENT} objects and more", "the worst of these"),
    *("agreement", "INT8", "latency / `nncf`", "latency / float", "CPU s"),
)
NOTES = """\
Means of the seeds, [least, greatest] of them.

* Loss: points less than float in float32. The interval is the 95% percentile bootstrap over the
  images of the test split, on the same resamples for both; it holds for these calibration images.
  Resamples without the few objects of a rare class leave that class out, and its loss with it:
  where such classes lose much by chance, the interval does not lie around the loss.
* Worst class: the one that loses most, in brackets its objects, and the interval of that class
  alone: the worst of many classes loses something by chance.
* Loss in classes of more objects: the mean of their losses, without the chance of rare classes; in
  brackets how many they are.
* Agreement: mAP of what is found against what float finds, of a classifier the share of images
  taken for the same, on images of the calibration split that were not used.
* INT8: share of the multiplications of convolutions.
* Latency: medians of one image at a time, in turns; float is the fastest of the machine.
* CPU s: quantization, all threads, without reading the model.
"""
CHANGES = ("agreement", "held_back", "score")


@dataclass(frozen=True, eq=False)
class ClassLoss:
    """What a class loses, in points, how many objects it has, and the same as ``points`` on
    resampled images: float64 [resamples], NaN where a resample has no object of it.
    """

    name: str
    points: float
    objects: int
    resampled: Floats


@dataclass(frozen=True, eq=False)
class Loss:
    """How much less a recipe scores than float32, the mean of its seeds, in points.

    ``resampled`` float64 [resamples] is the same on resampled images. ``classes`` are those with
    objects, the greatest loss first.
    """

    points: float
    resampled: Floats
    classes: tuple[ClassLoss, ...]

    @property
    def frequent(self) -> tuple[ClassLoss, ...]:
        """The classes that have some objects more than few."""
        return tuple(one for one in self.classes if one.objects >= FREQUENT)


def loss_of(results: Results, exact: Row, rows: Sequence[Row]) -> Loss:
    """Of one model's rows by one recipe, against its float32 row."""
    reference, arrays = _arrays(results, exact), [_arrays(results, row) for row in rows]
    by_class = reference["resampled_classes"] - np.mean(
        [one["resampled_classes"] for one in arrays], axis=0, dtype=np.float64
    )
    classes = [
        ClassLoss(
            name,
            score - _mean(row["classes"][name][0] for row in rows),
            objects,
            by_class[:, place],
        )
        for place, (name, (score, objects)) in enumerate(exact["classes"].items())
        if score is not None
    ]
    return Loss(
        points=exact["score"] - _mean(row["score"] for row in rows),
        resampled=reference["resampled"] - np.mean([one["resampled"] for one in arrays], axis=0),
        classes=tuple(sorted(classes, key=lambda one: -one.points)),
    )


def mean_loss(classes: Sequence[ClassLoss]) -> tuple[float, Floats]:
    """Of some classes, and the same on resampled images; of those that have objects there."""
    resampled = mean_over_classes(np.stack([one.resampled for one in classes], axis=1))
    return _mean(one.points for one in classes), resampled


def points_lost(points: float, resampled: Floats, *, digits: int = 2) -> str:
    """A loss and its interval, as every cell has them."""
    low, high = interval(resampled)
    return f"{points:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def table(results: Results, rows: Mapping[Key, Row]) -> Iterator[str]:
    """One table of all models, then the means over them of each recipe."""
    yield from markdown_head(HEADINGS)
    losses: dict[str, list[tuple[Loss, list[Row]]]] = {}
    for model in dict.fromkeys(model for model, _, _ in rows):
        own = [row for row in rows.values() if row["model"] == model]
        exact = rows.get((model, FLOAT, 0))
        ms = rows.get((model, LATENCY, 0), {}).get("ms", {})
        for recipe in dict.fromkeys(row["recipe"] for row in own if row["recipe"] != LATENCY):
            of_recipe = [row for row in own if row["recipe"] == recipe]
            some = [row for row in of_recipe if "error" not in row]
            for row in of_recipe:
                if "error" in row:
                    reason = _reason(recipe, row)
                    yield markdown_row([model, named(recipe), reason, *[""] * (len(HEADINGS) - 3)])
            if not some or exact is None or "error" in exact:
                continue
            loss = loss_of(results, exact, some)
            yield markdown_row([model, *_cells(recipe, some, loss, ms)])
            if "int8_share" in some[0] and some[0]["measure"] == "mAP":
                losses.setdefault(recipe, []).append((loss, some))
    if losses:
        yield ""
        yield from _means(losses)


def _cells(recipe: str, rows: list[Row], loss: Loss, ms: Mapping[str, float]) -> list[str]:
    is_first = recipe == FLOAT
    is_int8 = "int8_share" in rows[0]
    floats = [value for name, value in ms.items() if name.startswith(FLOAT)]
    ratios = [_ratio(ms, recipe, ms.get(NNCF)), _ratio(ms, recipe, min(floats, default=None))]
    if is_first:
        return [
            f"{FLOAT}, {rows[0]['images']} images",
            f"{rows[0]['score']:.2f}",
            *[""] * 6,
            *ratios,
            "",
        ]
    return [
        named(recipe),
        _spread([row["score"] for row in rows]),
        points_lost(loss.points, loss.resampled),
        worst_cell(loss.classes),
        frequent_cell(loss.frequent),
        worst_cell(loss.frequent),
        _agreement([row["held_back"] for row in rows]) if "held_back" in rows[0] else "",
        f"{100 * _mean(row['int8_share'] for row in rows):.1f}%" if is_int8 else "",
        *ratios,
        f"{statistics.median(row['cpu_seconds'] for row in rows):.0f}" if is_int8 else "",
    ]


def _means(losses: Mapping[str, list[tuple[Loss, list[Row]]]]) -> Iterator[str]:
    """Of detectors; recipes on different numbers of models are not to be compared."""
    headings = ("recipe", "detectors", "mean loss", "greatest", "mean agreement", "least")
    yield from markdown_head(headings)
    for recipe, some in losses.items():
        seen = [row["held_back"] for _, rows in some for row in rows]
        known = [value for value in seen if value is not None]
        agreement = [f"{_mean(known):.1f}", f"{min(known):.1f}"] if known else ["", ""]
        greatest = f"{max(loss.points for loss, _ in some):+.2f}"
        figures = [mean_cell([(loss.points, loss.resampled) for loss, _ in some]), greatest]
        yield markdown_row([f"`{recipe}`", str(len(some)), *figures, *agreement])


def passes(rows: Mapping[Key, Row]) -> Iterator[str]:
    """What changes if a pass of `measured` is left out: agreement on the test images and on
    held-back ones and the score, seed by seed against the whole recipe; the mean over models, then
    each model's agreement.
    """
    sound = {key: row for key, row in rows.items() if "error" not in row}
    whole = {(m, seed): row for (m, recipe, seed), row in sound.items() if recipe == "measured"}
    names = dict.fromkeys(recipe for _, recipe, _ in sound if WITHOUT in recipe)
    models = list(dict.fromkeys(model for model, _ in whole))
    yield from markdown_head(["left out", "agreement", "held back", "mAP or top-1", *models])
    cells = [
        f"{_mean(whole[key]['agreement'] for key in whole if key[0] == m):.1f}" for m in models
    ]
    yield markdown_row(["nothing", "", "", "", *cells])
    for name in names:
        changes: dict[str, dict[str, float]] = {key: {} for key in CHANGES}
        for model in models:
            some = [row for (m, recipe, _), row in sound.items() if (m, recipe) == (model, name)]
            pairs = [
                (row, whole[model, row["seed"]]) for row in some if (model, row["seed"]) in whole
            ]
            for key in CHANGES:
                known = [(a[key], b[key]) for a, b in pairs if None not in (a[key], b[key])]
                if known:
                    changes[key][model] = _mean(one - all_ for one, all_ in known)
        means = [f"{_mean(changes[key].values()):+.2f}" if changes[key] else "" for key in CHANGES]
        own = changes["agreement"]
        cells = [f"{own[model]:+.1f}" if model in own else "" for model in models]
        yield markdown_row([name.partition(WITHOUT)[2], *means, *cells])


def _arrays(results: Results, row: Row) -> dict[str, Floats]:
    return results.arrays((row["model"], row["recipe"], row["seed"]))


def mean_cell(losses: Sequence[tuple[float, Floats]]) -> str:
    """The mean of losses and of what they are on the same resamples."""
    if not losses:
        return ""
    resampled = np.mean([one for _, one in losses], axis=0)
    return points_lost(_mean(points for points, _ in losses), resampled)


def worst_cell(classes: Sequence[ClassLoss]) -> str:
    """The first of classes that are in order of their losses."""
    if not classes:
        return ""
    one = classes[0]
    lost = points_lost(one.points, one.resampled, digits=1)
    return f"{lost} {escaped(one.name)} ({one.objects})"


def frequent_cell(classes: Sequence[ClassLoss]) -> str:
    """The mean loss of classes, and how many they are."""
    if not classes:
        return ""
    return f"{points_lost(*mean_loss(classes))} ({len(classes)})"


def _reason(recipe: str, row: Row) -> str:
    seed = "" if recipe.startswith(FLOAT) else f", seed {row['seed']}"
    return f"not measured{seed}: {escaped(row['error'])}"


def _agreement(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "nothing found"
    refused = " (`quantize` refuses it)" if min(known) < LEAST_AGREEMENT else ""
    mean = f"{_mean(known):.1f}"
    spread = mean if len(known) == 1 else f"{mean} [{min(known):.1f}, {max(known):.1f}]"
    return spread + refused


def named(recipe: str) -> str:
    return recipe if recipe.startswith(FLOAT) else f"`{recipe}`"


def _ratio(ms: Mapping[str, float], recipe: str, reference: float | None) -> str:
    return f"{ms[recipe] / reference:.2f}" if recipe in ms and reference else ""


def _spread(values: Sequence[float]) -> str:
    mean = f"{_mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.2f}, {max(values):.2f}]"


def _mean(values: Iterable[float]) -> float:
    return statistics.mean(values)


def escaped(text: str) -> str:
    """As it may stand in a cell."""
    return text.replace("|", "\\|")


def markdown_head(headings: Sequence[str]) -> tuple[str, str]:
    """The two lines that a table begins with."""
    return markdown_row(headings), markdown_row(["---"] * len(headings))


def markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
