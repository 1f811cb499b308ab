"""How well each class is found, and what it is taken for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from detq.console.numbers import difference, number
from detq.console.terminal import stdout
from detq.records import ClassScores, EvalResult

ALL = "all classes"
MISTAKES = 10
"""So many of the most frequent ones are shown."""


def print_classes(results: Sequence[EvalResult]) -> None:
    """Average precision and recall of each class; where the last model loses most to the first on
    top, of one model the lowest. Then the best thresholds, and what is taken for what.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    headings = ["objects", "AP", "AP50", "AR", "best F1", "at score"]
    if len(results) > 1:
        names = (f"AP {escape(one.model)}" for one in results)
        headings = ["objects", *names, "AP diff", "AP50 diff", "AR diff"]
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    table.add_row(ALL, *_cells([one.all_classes for one in results]))
    for name in worst_first(results[0], results[-1]):
        table.add_row(escape(name), *_cells([one.per_class[name] for one in results]))
    stdout.print()
    stdout.print(table)
    stdout.print()
    if len(results) > 1:
        said = f"diff: of {results[-1].model} to {results[0].model}"
        stdout.print(said, markup=False, highlight=False)
    for result in results:
        best = result.all_classes
        stdout.print(
            f"{result.model}: best F1 over all classes {number(best.best_f1)}, "
            f"with detections from score {number(best.best_confidence)} on",
            markup=False,
            highlight=False,
        )
    _print_mistakes(results[-1])


def worst_first(first: EvalResult, last: EvalResult) -> list[str]:
    """The names of the classes by what they lose from one model to the other, greatest losses
    first; of one model alone by their AP. Those that have none are last.
    """

    def rank(name: str) -> float:
        was, now = first.per_class[name].map, last.per_class[name].map
        if was is None or now is None:
            return math.inf
        return now if first is last else now - was

    return sorted(first.per_class, key=rank)


def _cells(models: Sequence[ClassScores]) -> list[str]:
    first, last = models[0], models[-1]
    if len(models) == 1:
        figures = [number(value) for value in (first.map, first.map50, first.mar100)]
        return [str(first.objects), *figures, number(first.best_f1), number(first.best_confidence)]
    return [
        str(first.objects),
        *(number(one.map) for one in models),
        difference(last.map, first.map),
        difference(last.map50, first.map50),
        difference(last.mar100, first.mar100),
    ]


def _print_mistakes(result: EvalResult) -> None:
    confusion = result.confusion
    if confusion is None or not (mistakes := confusion.mistakes()):
        return
    more = "" if len(mistakes) <= MISTAKES else f", the {MISTAKES} most frequent of {len(mistakes)}"
    stdout.print(
        f"\nmistakes of {result.model} with detections from score {confusion.confidence} on, "
        f"at IoU {confusion.iou}{more}",
        markup=False,
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("objects of", overflow="fold")
    table.add_column("are taken for", overflow="fold")
    table.add_column("times", justify="right")
    for thing, taken_for, count in mistakes[:MISTAKES]:
        table.add_row(
            "(background)" if thing is None else escape(thing),
            "(background: missed)" if taken_for is None else escape(taken_for),
            str(count),
        )
    stdout.print(table)
