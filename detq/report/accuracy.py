"""What a report shows of the accuracy of each class, float beside INT8."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from detq.records import ClassScores, Confusion, EvalResult
from detq.report.charts import curve_svg

ROWS_SHOWN = 20
"""Classes of a table; the others are folded away."""
CURVES_SHOWN = 8
"""Classes that have curves in the page, those that lose most."""
CONFUSED_SHOWN = 12
"""Classes of a confusion matrix, those that are most often taken for others."""
MISTAKES_SHOWN = 12
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class ClassRow:
    """A class, or all of them together, in float and in INT8."""

    name: str
    in_float: ClassScores
    in_int8: ClassScores

    @property
    def loss(self) -> float:
        """By what a table is sorted: AP in INT8 less AP in float, infinite where undefined."""
        was, now = self.in_float.map, self.in_int8.map
        return math.inf if was is None or now is None else now - was


@dataclass(frozen=True)
class Curves:
    """The curves of a class at IoU 0.5."""

    row: ClassRow
    precision: Markup
    f1: Markup


@dataclass(frozen=True)
class Cell:
    """A number of a confusion matrix: INT8's, its difference to float's, its share of the row."""

    count: int
    difference: int
    share: float


@dataclass(frozen=True)
class MatrixView:
    """Some classes of a confusion matrix, then all others together, then background.

    ``names`` are those of rows and columns, ``classes`` how many of them are classes of their own,
    of ``total``.
    """

    names: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    classes: int
    total: int
    mistakes: tuple[tuple[str | None, str | None, int, int], ...]
    confidence: float
    iou: float


@dataclass(frozen=True)
class AccuracyView:
    """All of it. ``sizes`` are (size, metric, float, INT8), ``rows`` worst losses first."""

    whole: ClassRow
    rows: tuple[ClassRow, ...]
    sizes: tuple[tuple[str, str, float | None, float | None], ...]
    curves: tuple[Curves, ...]
    matrix: MatrixView | None


def accuracy_view(scores: Sequence[EvalResult]) -> AccuracyView | None:
    """Scores of the float model (first) and of the INT8 model (last) -> what is shown of them;
    None where there are none of single classes, as of a classifier.
    """
    if not scores or not scores[-1].per_class:
        return None
    first, last = scores[0], scores[-1]
    whole = ClassRow("all classes", first.all_classes, last.all_classes)
    rows = [ClassRow(name, one, last.per_class[name]) for name, one in first.per_class.items()]
    rows.sort(key=lambda row: row.loss)
    shown = [row for row in rows if row.in_float.objects][:CURVES_SHOWN]
    if len(rows) == 1:
        shown = []
    return AccuracyView(
        whole=whole,
        rows=tuple(rows),
        sizes=tuple(
            (size, metric, first.scores[key], last.scores[key])
            for metric, prefix in (("AP", "map"), ("AR", "mar"))
            for size in SIZES
            if (key := f"{prefix}_{size}") in first.scores
        ),
        curves=tuple(map(_curves, [whole, *shown])),
        matrix=_matrix(first.confusion, last.confusion),
    )


def _curves(row: ClassRow) -> Curves:
    one, two = row.in_float, row.in_int8
    return Curves(
        row,
        curve_svg(
            one.precision,
            two.precision,
            title=f"{row.name}: precision by recall",
            across="recall",
            up="precision",
        ),
        curve_svg(
            one.f1,
            two.f1,
            title=f"{row.name}: F1 by confidence",
            across="confidence",
            up="F1",
            best=(one.best_confidence, two.best_confidence),
        ),
    )


def _matrix(first: Confusion | None, last: Confusion | None) -> MatrixView | None:
    if first is None or last is None:
        return None
    total = len(last.class_names)
    chosen = most_confused(last, CONFUSED_SHOWN) if total > CONFUSED_SHOWN else [*range(total)]
    # Where each class and background go: to a place of their own, or to that of all others.
    others = len(chosen) if len(chosen) < total else None
    background = len(chosen) + (others is not None)
    place_of = {place: n for n, place in enumerate(chosen)} | {total: background}
    size = background + 1
    counts = [_folded(each.counts, place_of, others, size) for each in (last, first)]
    sums = np.maximum(counts[0].sum(axis=1, keepdims=True), 1)
    shares = counts[0] / sums
    names = [last.class_names[place] for place in chosen]
    if others is not None:
        names.append(f"{total - len(chosen)} others")
    return MatrixView(
        names=(*names, "background"),
        cells=tuple(
            tuple(
                Cell(
                    int(counts[0][row, column]),
                    int(counts[0][row, column] - counts[1][row, column]),
                    float(shares[row, column]),
                )
                for column in range(size)
            )
            for row in range(size)
        ),
        classes=len(chosen),
        total=total,
        mistakes=_mistakes(first, last),
        confidence=last.confidence,
        iou=last.iou,
    )


def most_confused(confusion: Confusion, count: int) -> list[int]:
    """The places of so many classes that are most often taken for others or others for them, in
    their own order; where that is too few, those with most objects and detections.
    """
    background = len(confusion.class_names)
    rank = np.zeros((background + 1, 2), np.int64)
    for (row, column), times in confusion.counts.items():
        is_confusion = row != column and background not in (row, column)
        for place in {row, column}:
            rank[place] += (times if is_confusion else 0, times)
    order = sorted(range(background), key=lambda place: (*(-rank[place]).tolist(), place))
    return sorted(order[:count])


def _folded(
    counts: Mapping[tuple[int, int], int],
    place_of: Mapping[int, int],
    others: int | None,
    size: int,
) -> npt.NDArray[np.int64]:
    """[size, size] with the counts of all classes without a place of their own at ``others``."""
    matrix = np.zeros((size, size), np.int64)
    for (row, column), count in counts.items():
        matrix[place_of.get(row, others), place_of.get(column, others)] += count
    return matrix


def _mistakes(
    first: Confusion, last: Confusion
) -> tuple[tuple[str | None, str | None, int, int], ...]:
    """(object, detection, in float, in INT8) of what INT8 gets wrong most often."""
    before: dict[Any, int] = {(one, two): count for one, two, count in first.mistakes()}
    return tuple(
        (one, two, before.get((one, two), 0), count)
        for one, two, count in last.mistakes()[:MISTAKES_SHOWN]
    )
