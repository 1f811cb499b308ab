"""Activation ranges: which part of a tensor's values the integer grid covers. Pure numpy.

Every rule looks at :class:`ActivationStatistics` and returns a threshold on |x|, beyond which
values are clipped; :func:`choose_range` turns that into the two ends of the grid.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy

from detq.config import RangesConfig
from detq.numerics.histogram import ActivationStatistics, Counts
from detq.numerics.integer_range import Range

Bins = npt.NDArray[np.int64]

COMB_SHARE = 0.5
"""With fewer occupied bins than this share of its span a histogram is a comb (an 8-bit image)."""
KL_CLIPPED_FREELY = 0.1
"""Of the values that KL may clip, the share that it may clip whatever that brings."""


def choose_range(
    statistics: ActivationStatistics,
    method: str,
    config: RangesConfig,
    *,
    symmetric: bool,
    levels: int = 256,
) -> Range:
    """The range of one activation by one of the rules in :data:`THRESHOLDS`.

    A tensor without negative values gets ``[0, T]``; one with them ``[-T, T]`` if ``symmetric``,
    else the part of ``[min, max]`` within the threshold: a SiLU's short negative tail then costs
    few levels.
    """
    if statistics.peak == 0:
        return Range(0.0, 1.0)  # nothing but zeros was seen, which any grid represents exactly
    negative_share = -statistics.low / (max(statistics.high, 0.0) - min(statistics.low, 0.0))
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
        return Range(0.0, threshold).signed
    return align_zero(
        max(statistics.low, -threshold), max(min(statistics.high, threshold), 0.0), levels=levels
    )


def align_zero(low: float, high: float, *, levels: int) -> Range:
    """Widen one end of ``[low, high]`` so that zero falls exactly on one of the ``levels``.

    Of the two nearest grids the finer one, which wastes at most one step: for a SiLU's short
    negative tail the nearest zero point can make the step half as large again. A tail below half a
    step rounds to zero on any grid, and gets none.
    """
    top = levels - 1
    if -low * top < 0.5 * high:
        return Range(0.0, high)
    exact = -low * top / (high - low)
    zero_points = {min(max(zero_point, 1), top - 1) for zero_point in (int(exact), int(exact) + 1)}
    step, zero_point = min((max(high / (top - z), -low / z), z) for z in zero_points)
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
    """Least expected squared error: rounding noise ``step**2 / 12`` inside, clipping outside."""
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

    ``P`` is the whole histogram; its clipped tail is not folded into the last bin. ``Q`` is its
    kept part, pooled into ``levels`` and spread back over the bins that were not empty. Over those

        ``D = (1 / S_P) * sum P * [ln(S_P * P) - ln(S_Q * Q)]``

    so that clipping costs what share is clipped and not how far out it lies. Its penalty
    ``x ln(1/x)`` of the kept share ``x`` vanishes again near x = 0, hence the guard ``kl_keep``;
    and because what is clipped may be what the network looks for, most of what that allows is
    clipped only where it makes the grid ``kl_least_gain`` times finer.
    """
    counts, kept = statistics.magnitude, _candidates(statistics, levels, config.kl_keep)
    inside = np.cumsum(counts)[kept - 1]
    shape_loss = np.cumsum(xlogy(counts, counts))[kept - 1] - pooled_log_sum(counts, kept, levels)
    divergence = shape_loss + inside * (np.log(counts.sum()) - np.log(inside))
    narrow = _at_least(statistics, kept, divergence)
    free = _candidates(statistics, levels, 1 - KL_CLIPPED_FREELY * (1 - config.kl_keep))
    wide = _at_least(statistics, free, divergence[-len(free) :])
    return narrow if narrow * config.kl_least_gain <= wide else wide


def kl_entropy(statistics: ActivationStatistics, levels: int, config: RangesConfig) -> float:
    """Textbook KL: the clipped tail is folded into the last kept bin of ``P``, not of ``Q``."""
    counts, kept = statistics.magnitude, _candidates(statistics, levels, config.kl_keep)
    kept = kept[counts[kept - 1] > 0]  # elsewhere Q is zero where P is not: an infinite divergence
    last, inside = counts[kept - 1], np.cumsum(counts)[kept - 1]
    total = counts.sum()
    folded = last + total - inside
    p_log_p = np.cumsum(xlogy(counts, counts))[kept - 1] - xlogy(last, last) + xlogy(folded, folded)
    mass, density = _pool(counts, kept, levels)
    p_log_q = xlogy(mass, density).sum(axis=1) + xlogy(total - inside, density[:, -1])
    divergence = (p_log_p - p_log_q) / total - np.log(total) + np.log(inside)
    return _at_least(statistics, kept, divergence)


def pooled_log_sum(counts: Counts, kept: Bins, levels: int) -> Counts:
    """``sum P ln Q`` for each number of kept bins (k,) -> (k,).

    ``Q`` has ``P``'s mass in every group of bins, spread evenly over the group's nonempty bins, so
    the sum over a group's bins is its mass times the logarithm of that density.
    """
    mass, density = _pool(counts, kept, levels)
    return np.asarray(xlogy(mass, density).sum(axis=1), np.float64)


def _pool(counts: Counts, kept: Bins, levels: int) -> tuple[Counts, Counts]:
    """The first ``kept`` (k,) bins in ``levels`` groups: their mass and density, (k, levels)."""
    edges = np.arange(levels + 1) * kept[:, None] // levels
    sums = np.concatenate([[0.0], np.cumsum(counts)])[edges]
    occupied = np.concatenate([[0.0], np.cumsum(counts > 0)])[edges]
    mass, bins = np.diff(sums, axis=1), np.diff(occupied, axis=1)
    return mass, np.divide(mass, bins, out=np.zeros_like(mass), where=bins > 0)


def _candidates(statistics: ActivationStatistics, levels: int, keep: float) -> Bins:
    """Numbers of bins to keep: at least one per level, and the stated share of the mass."""
    count = len(statistics.magnitude)
    guard = _bins_keeping(statistics, keep)
    return np.arange(min(max(levels, guard), count), count + 1, dtype=np.int64)


def _at_least(statistics: ActivationStatistics, kept: Bins, divergence: Counts) -> float:
    """The threshold of least divergence."""
    return min(float(kept[int(np.argmin(divergence))]) * statistics.bin_width, statistics.peak)


def _keeping(statistics: ActivationStatistics, share: float) -> float:
    """The smallest bin edge within which at least ``share`` of the nonzero values lie."""
    return min(_bins_keeping(statistics, share) * statistics.bin_width, statistics.peak)


def _bins_keeping(statistics: ActivationStatistics, share: float) -> int:
    """How many bins, from zero up, hold at least ``share`` of the nonzero values."""
    inside = np.cumsum(statistics.magnitude)
    return int(np.searchsorted(inside, share * inside[-1] * (1 - 1e-15))) + 1


def _centers(statistics: ActivationStatistics) -> Counts:
    bins = np.arange(len(statistics.magnitude), dtype=np.float64)
    return (bins + 0.5) * statistics.bin_width


ThresholdRule = Callable[[ActivationStatistics, int, RangesConfig], float]

THRESHOLDS: dict[str, ThresholdRule] = {
    "minmax": minmax,
    "mean_minmax": mean_minmax,
    "percentile": percentile,
    "mse": mse,
    "kl_cfws": kl_cfws,
    "kl_entropy": kl_entropy,
}
