"""What held-back agreement, which needs no labels, says about the loss, with an interval.

The expected loss rises with the disagreement d = 100 - agreement as a + b d + c d^2, none of them
negative, and so does how far rows are from it. The interval is conformal: between quantiles of what
rows of other models were off, each predicted from the models that are neither its own nor the one
in question (leave one model out; Vovk, Cross-conformal predictors, 2015; Lei et al.,
Distribution-free predictive inference for regression, 2018, section 5.2 for the scale). Nothing of
a model says anything about itself, as for a model that nobody has labels for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from scipy.stats import spearmanr
from zoo_results import Key, Row

LEAST_ROWS, LEAST_MODELS = 10, 3
LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
GOAL_POINTS = 0.3
_LEAST_SCALE_POINTS = 0.05
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fit:
    """``loss`` and ``scale`` are the factors of 1, d and d^2, and of 1 and d."""

    loss: Floats
    scale: Floats

    def expected(self, disagreement: Floats) -> Floats:
        """Points, [n] for [n]."""
        return _powers(disagreement, 2) @ self.loss

    def spread(self, disagreement: Floats) -> Floats:
        """How far from it rows are, points, [n]."""
        return np.maximum(_powers(disagreement, 1) @ self.scale, _LEAST_SCALE_POINTS)


def fit(disagreement: Floats, loss: Floats) -> Fit:
    """Least squares of rows [n]; the second round weighs each by how far such rows are off."""
    spread = np.ones_like(loss)
    for _ in range(2):
        factors, _ = nnls(_powers(disagreement, 2) / spread[:, None], loss / spread)
        off = np.abs(loss - _powers(disagreement, 2) @ factors)
        scale, _ = nnls(_powers(disagreement, 1), off)
        found = Fit(factors, scale)
        spread = found.spread(disagreement)
    return found


def expected_losses(
    models: Sequence[str], agreement: Floats, loss: Floats
) -> tuple[Floats, Floats, Floats]:
    """Of each row [n] what the rows of other models let expect: the loss, and the ends of the
    interval, in points. At least three models are needed.
    """
    names, disagreement = np.array(models), 100 - agreement
    expected, low, high = (np.zeros(len(loss)) for _ in range(3))
    for model in dict.fromkeys(models):
        own, others = names == model, names != model
        scores = []
        for other in dict.fromkeys(names[others]):
            known = others & (names != other)
            judge, judged = fit(disagreement[known], loss[known]), names == other
            off = loss[judged] - judge.expected(disagreement[judged])
            scores.extend(off / judge.spread(disagreement[judged]))
        found = fit(disagreement[others], loss[others])
        spread, below, above = found.spread(disagreement[own]), *_quantiles(np.array(scores))
        expected[own] = found.expected(disagreement[own])
        low[own], high[own] = expected[own] + below * spread, expected[own] + above * spread
    return expected, low, high


def lines(rows: Mapping[Key, Row], losses: Mapping[Key, tuple[float, float]]) -> Iterator[str]:
    """Markdown; nothing below ten rows of three models. ``losses`` are of each row the loss and the
    standard deviation of that on resampled images.
    """
    for measure in dict.fromkeys(rows[key]["measure"] for key in losses):
        keys = [key for key in losses if rows[key]["measure"] == measure]
        if len(keys) >= LEAST_ROWS and len({model for model, _, _ in keys}) >= LEAST_MODELS:
            yield from _lines(measure, keys, rows, losses)


def _lines(
    measure: str,
    keys: Sequence[Key],
    rows: Mapping[Key, Row],
    losses: Mapping[Key, tuple[float, float]],
) -> Iterator[str]:
    agreement = np.array([rows[key]["held_back"] for key in keys])
    loss, noise = np.array([losses[key] for key in keys]).T
    models = [model for model, _, _ in keys]
    expected, low, high = expected_losses(models, agreement, loss)
    off, within = np.abs(loss - expected), (low <= loss) & (loss <= high)
    least = min(len(models) - models.count(model) for model in models)
    reached = min(LEVEL, 1 - 2 / (least + 1))  # between the outermost of so many
    yield ""
    yield f"Loss in {measure} that agreement on held-back images lets expect, from other models:"
    yield ""
    yield "| model | recipe | seed | agreement | expected loss | interval | loss |"
    yield "|---|---|---|---|---|---|---|"
    for n, (model, recipe, seed) in enumerate(keys):
        mark = "" if within[n] else " (outside)"
        figures = f"{agreement[n]:.1f} | {expected[n]:.2f} | {low[n]:.2f} to {high[n]:.2f}"
        yield f"| {model} | `{recipe}` | {seed} | {figures} | {loss[n]:.2f}{mark} |"
    yield ""
    inside = f"{int(within.sum())} of {len(keys)} losses ({100 * within.mean():.0f}%)"
    yield f"* {inside} lie inside intervals of {100 * reached:.0f}%."
    yield f"* The median width of these is {np.median(high - low):.2f} points."
    near = 100 * np.mean(off <= GOAL_POINTS)
    yield f"* {near:.0f}% of the losses are within {GOAL_POINTS} points of what was expected."
    yield (
        "* Which images the test splits hold accounts for a standard deviation of "
        f"{np.median(noise):.2f} points (median)."
    )
    yield ""
    yield from _bands(models, agreement, loss)
    for model in dict.fromkeys(models):
        own = np.array(models) == model
        if own.sum() > 2:
            rank = spearmanr(agreement[own], -loss[own]).statistic
            yield f"* {model}: rank correlation (Spearman) {rank:.2f} over {own.sum()} rows"


def _bands(models: Sequence[str], agreement: Floats, loss: Floats) -> Iterator[str]:
    """What `detq.api.judging.EXPECTED_LOSSES` is made of; inside are the rows of each model that
    lie in the interval of the others.
    """
    names = np.array(models)
    yield "| agreement | rows | mean loss | 95 of 100 | greatest | inside |"
    yield "|---|---|---|---|---|---|"
    for least, most in pairwise((100.1, 98.0, 95.0, 90.0, 80.0, 0.0)):
        belongs = (most <= agreement) & (agreement < least)
        some = loss[belongs]
        if not some.size:
            continue
        low, high = np.quantile(some, TAILS)
        inside = 0
        for model in dict.fromkeys(names[belongs]):
            others = loss[belongs & (names != model)]
            if others.size:
                ends, own = np.quantile(others, TAILS), loss[belongs & (names == model)]
                inside += int(((ends[0] <= own) & (own <= ends[1])).sum())
        figures = f"{some.mean():.2f} | {low:.1f} to {high:.1f} | {some.max():.2f}"
        share = f"{100 * inside / len(some):.0f}%"
        yield f"| {most:.0f} to {min(least, 100):.0f} | {len(some)} | {figures} | {share} |"
    yield ""


def _quantiles(scores: Floats) -> tuple[float, float]:
    """Between which a further score lies in 95% of cases; with few scores the outermost ones."""
    ordered, count = np.sort(scores), len(scores)
    tail = int(np.floor((1 - LEVEL) / 2 * (count + 1)))
    return float(ordered[max(tail - 1, 0)]), float(ordered[min(count - tail, count - 1)])


def _powers(disagreement: Floats, degree: int) -> Floats:
    return np.stack([disagreement**power for power in range(degree + 1)], axis=1)
