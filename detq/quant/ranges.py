"""Activation ranges: which part of a tensor's values the integer grid covers. Pure numpy.

Every rule looks at :class:`ActivationStatistics` and returns a threshold on |x|; :func:`choose_range`
turns that into the two ends of the grid. Beyond a threshold values are clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from detq.config import RangesConfig
from detq.errors import CalibrationError
from detq.quant.histogram import ActivationStatistics, Counts

COMB_SHARE = 0.5
"""A histogram with fewer occupied bins than this share of its span is a comb (an 8-bit image, say)."""


@dataclass(frozen=True)
class Range:
    """Ends of an integer grid in real units, with zero exactly on the grid."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (self.low <= 0 < self.high):
            raise CalibrationError(f"expected low <= 0 < high, got {self.low}, {self.high}")


def choose_range(
    statistics: ActivationStatistics,
    method: str,
    config: RangesConfig,
    *,
    symmetric: bool,
    levels: int = 256,
) -> Range:
    """The range of one activation by one of the rules in :data:`THRESHOLDS`.

    A tensor without negative values gets ``[0, T]``; one with them ``[-T, T]`` if ``symmetric``, else
    the part of ``[min, max]`` within the threshold: a SiLU's short negative tail then costs few levels.
    """
    if statistics.peak == 0:
        return Range(0.0, 1.0)  # nothing but zeros was seen, which any grid represents exactly
    negative_share = -statistics.low / (statistics.high - statistics.low)
    if statistics.low >= 0:
        positive_levels = levels
    elif symmetric:
        positive_levels = levels // 2
    else:
        positive_levels = round(levels * max(negative_share, 1 - negative_share))
    if is_comb(statistics.magnitude, positive_levels):
        method = "minmax"
    threshold = THRESHOLDS[method](statistics, positive_levels, config)
    if statistics.low >= 0:
        return Range(0.0, threshold)
    if symmetric:
        return Range(-threshold * (levels // 2) / (levels // 2 - 1), threshold)
    return align_zero(
        max(statistics.low, -threshold), max(min(statistics.high, threshold), 0.0), levels=levels
    )


def align_zero(low: float, high: float, *, levels: int) -> Range:
    """Widen one end of ``[low, high]`` so that zero falls exactly on one of the ``levels``."""
    top = levels - 1
    zero_point = min(max(round(-low * top / (high - low)), 0), top - 1)
    step = max(high / (top - zero_point), -low / zero_point if zero_point else 0.0)
    return Range(-zero_point * step, (top - zero_point) * step)


def is_comb(counts: Counts, levels: int) -> bool:
    """True if the values sit on few, widely spaced spikes, as the 256 levels of a decoded image do.

    Such a tensor is already quantized: its distribution says nothing about what may be clipped.
    """
    occupied = int(np.count_nonzero(counts))
    return occupied <= levels and occupied < COMB_SHARE * len(counts)


def minmax(statistics: ActivationStatistics, levels: int, config: RangesConfig) -> float:
    """Nothing is clipped."""
    return statistics.peak


def mean_minmax(statistics: ActivationStatistics, levels: int, config: RangesConfig) -> float:
    """Mean over images of each image's extreme value: one odd image moves it little."""
    return max(statistics.mean_high, -statistics.mean_low)


def percentile(statistics: ActivationStatistics, levels: int, config: RangesConfig) -> float:
    """``config.percentile`` per cent of the nonzero values lie within the threshold."""
    return _keeping(statistics, config.percentile / 100)


def mse(statistics: ActivationStatistics, levels: int, config: RangesConfig) -> float:
    """Least expected squared error: rounding noise ``step² / 12`` inside, clipping error outside."""
    counts, centers = statistics.magnitude, _centers(statistics)
    thresholds = np.arange(1, len(counts) + 1) * statistics.bin_width
    inside = np.cumsum(counts)
    first = np.cumsum(counts * centers)
    second = np.cumsum(counts * centers**2)
    outside = inside[-1] - inside
    clipped = (second[-1] - second) - 2 * thresholds * (first[-1] - first) + thresholds**2 * outside
    rounding = inside * (thresholds / levels) ** 2 / 12
    best = int(np.argmin(clipped + rounding))
    return min(float(thresholds[best]), statistics.peak)


def kl_cfws(statistics: ActivationStatistics, levels: int, config: RangesConfig) -> float:
    """The improved KL metric (paper, section 3.2; the authors' statistics code).

    ``P`` is the whole histogram; its clipped tail is not folded into the last bin. ``Q`` is its kept
    part, pooled into ``levels`` and spread back over the bins that were not empty. Over those bins

        ``D = (1 / S_P) * sum P * [ln(S_P * P) - ln(S_Q * Q)]``

    so that clipping costs what share is clipped and not how far out it lies. Its penalty
    ``x ln(1/x)`` of the kept share ``x`` vanishes again near x = 0, hence the guard ``kl_keep``.
    """
    return _least_divergence(statistics, levels, config, _kl_cfws_divergence)


def kl_entropy(statistics: ActivationStatistics, levels: int, config: RangesConfig) -> float:
    """Textbook KL: the clipped tail is folded into the last kept bin of ``P``."""
    return _least_divergence(statistics, levels, config, _kl_entropy_divergence)


Divergence = Callable[[Counts, int, int], float]


def _least_divergence(
    statistics: ActivationStatistics, levels: int, config: RangesConfig, divergence: Divergence
) -> float:
    """The threshold, at a bin edge that keeps the stated share of the mass, with least divergence."""
    counts = statistics.magnitude
    first = max(levels, round(_keeping(statistics, config.kl_keep) / statistics.bin_width))
    candidates = np.arange(min(first, len(counts)), len(counts) + 1)
    costs = [divergence(counts, int(kept), levels) for kept in candidates]
    best = int(candidates[int(np.argmin(costs))])
    return min(best * statistics.bin_width, statistics.peak)


def _kl_cfws_divergence(counts: Counts, kept: int, levels: int) -> float:
    p = counts[:kept]
    q = pool(p, levels)
    used = p > 0  # q > 0 there too: pooling keeps the mass of each occupied bin's group
    p, q = p[used], q[used]
    total = counts.sum()
    return float((p * (np.log(total * p) - np.log(q.sum() * q))).sum() / total)


def _kl_entropy_divergence(counts: Counts, kept: int, levels: int) -> float:
    p = counts[:kept].copy()
    q = pool(p, levels)
    p[-1] += counts[kept:].sum()
    used = (p > 0) & (q > 0)
    p, q = p[used] / p.sum(), q[used] / q.sum()
    return float((p * np.log(p / q)).sum())


def pool(counts: Counts, levels: int) -> Counts:
    """Counts (n,) -> (n,): pooled into ``levels`` groups, each spread evenly over its nonempty bins."""
    edges = np.arange(levels) * len(counts) // levels
    mass = np.add.reduceat(counts, edges)
    occupied = np.add.reduceat((counts > 0).astype(np.float64), edges)
    density = np.divide(mass, occupied, out=np.zeros_like(mass), where=occupied > 0)
    sizes = np.diff(np.append(edges, len(counts)))
    return np.where(counts > 0, np.repeat(density, sizes), 0.0)


def _keeping(statistics: ActivationStatistics, share: float) -> float:
    """The smallest bin edge within which at least ``share`` of the nonzero values lie."""
    inside = np.cumsum(statistics.magnitude)
    index = int(np.searchsorted(inside, share * inside[-1] * (1 - 1e-15)))
    return min((index + 1) * statistics.bin_width, statistics.peak)


def _centers(statistics: ActivationStatistics) -> Counts:
    return (np.arange(len(statistics.magnitude)) + 0.5) * statistics.bin_width


ThresholdRule = Callable[[ActivationStatistics, int, RangesConfig], float]

THRESHOLDS: dict[str, ThresholdRule] = {
    "minmax": minmax,
    "mean_minmax": mean_minmax,
    "percentile": percentile,
    "mse": mse,
    "kl_cfws": kl_cfws,
    "kl_entropy": kl_entropy,
}
