from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from detq.config import RangeMethod, RangesConfig
from detq.errors import CalibrationError
from detq.numerics.histogram import ActivationStatistics, HistogramObserver
from detq.numerics.integer_range import Range
from detq.numerics.ranges import (
    THRESHOLDS,
    align_zero,
    choose_range,
    is_comb,
    kl_cfws,
    kl_entropy,
    mean_minmax,
    minmax,
    mse,
    percentile,
)

Array = npt.NDArray[np.float64]

CONFIG = RangesConfig()
LEVELS = 8
EVERYTHING = RangesConfig(kl_keep=0.5000001, percentile=50.001)

methods = pytest.mark.parametrize("method", THRESHOLDS)


def statistics_of(
    positive: Array, negative: Array | None = None, *, bin_width: float = 0.25
) -> ActivationStatistics:
    """As if every value sat in the middle of its bin, and the largest on its upper edge."""
    positive = np.asarray(positive, np.float64)
    negative = np.zeros_like(positive) if negative is None else np.asarray(negative, np.float64)

    def reach(counts: Array) -> float:
        used = np.flatnonzero(counts)
        return float((used[-1] + 1) * bin_width) if len(used) else 0.0

    return ActivationStatistics(
        positive=positive,
        negative=negative,
        bin_width=bin_width,
        low=-reach(negative),
        high=reach(positive),
        mean_low=-0.5 * reach(negative),
        mean_high=0.5 * reach(positive),
        zeros=0,
        images=2,
    )


@st.composite
def histograms(draw: st.DrawFn) -> Array:
    """Counts of 1 to 64 bins, any of them empty but the last."""
    counts = draw(st.lists(st.sampled_from([0, 0, 1, 2, 7, 100, 10**6]), min_size=1, max_size=64))
    return np.array([*counts, 1], np.float64)


@st.composite
def activations(draw: st.DrawFn) -> ActivationStatistics:
    """What an observer saw of a few thousand values, positive or of both signs."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["relu", "silu", "signed", "negative", "constant"]))
    values = generator.normal(size=2000) * 10 ** generator.uniform(-3, 3)
    values *= generator.exponential(size=2000) ** draw(st.integers(0, 3))
    if kind == "relu":
        values = np.maximum(values, 0)
    elif kind == "silu":
        values = values / (1 + np.exp(-np.clip(values, -700, 700)))
    elif kind == "negative":
        values = -np.abs(values) - 1
    elif kind == "constant":
        values = np.full(5, draw(st.sampled_from([-0.25, 3.0])))
    observer = HistogramObserver(256)
    for image in np.array_split(values.astype(np.float32), 3):
        observer.update(image)
    return observer.statistics()


def pooled(counts: Array, kept: int, levels: int) -> Array:
    """Q: the first ``kept`` bins pooled into the levels, each spread over its nonempty bins."""
    result = np.zeros(kept)
    for level in range(levels):
        first, last = level * kept // levels, (level + 1) * kept // levels
        group = counts[first:last]
        if group.any():
            result[first:last][group > 0] = group.sum() / np.count_nonzero(group)
    return result


def literal_kl_cfws(counts: Array, kept: int, levels: int) -> float:
    """D = (1 / S_P) * sum P * [ln(S_P * P) - ln(S_Q * Q)] where both are positive."""
    q = pooled(counts, kept, levels)
    p = counts[:kept]
    both = (p > 0) & (q > 0)
    s_p, s_q = counts.sum(), q.sum()
    return float((p[both] * (np.log(s_p * p[both]) - np.log(s_q * q[both]))).sum() / s_p)


def literal_kl_entropy(counts: Array, kept: int, levels: int) -> float:
    """KL(P / S_P, Q / S_Q), the tail folded into the last kept bin of P."""
    q = pooled(counts, kept, levels)
    p = counts[:kept].copy()
    p[-1] += counts[kept:].sum()
    if ((p > 0) & (q == 0)).any():
        return float("inf")
    used = p > 0
    p, q = p[used] / p.sum(), q[used] / q.sum()
    return float((p * np.log(p / q)).sum())


def candidates(counts: Array, levels: int, share: float) -> list[int]:
    inside = np.cumsum(counts)
    enough = [kept for kept in range(1, len(counts) + 1) if inside[kept - 1] >= share * inside[-1]]
    least = min(max(levels, enough[0]), len(counts))
    return list(range(least, len(counts) + 1))


@pytest.mark.parametrize(
    ("rule", "literal"),
    [(kl_cfws, literal_kl_cfws), (kl_entropy, literal_kl_entropy)],
    ids=["kl_cfws", "kl_entropy"],
)
@pytest.mark.parametrize("keep", [0.51, 0.99, 1.0], ids="keep {}".format)
@given(counts=histograms(), levels=st.sampled_from([2, 8, 16]))
def test_vectorised_divergence_equals_the_formula(
    rule: object, literal: object, keep: float, counts: Array, levels: int
) -> None:
    threshold = rule(statistics_of(counts), levels, RangesConfig(kl_keep=keep))  # type: ignore[operator]
    least = {}
    for share in {keep, keep + 0.9 * (1 - keep)} if rule is kl_cfws else {keep}:
        allowed = candidates(counts, levels, share)
        costs = {kept: literal(counts, kept, levels) for kept in allowed}  # type: ignore[operator]
        least |= {kept: cost for kept, cost in costs.items() if cost < min(costs.values()) + 1e-9}
    assert round(threshold / 0.25) in least


@pytest.mark.parametrize("keep", [0.9, 0.9999, 1.0], ids="keep {}".format)
@pytest.mark.parametrize("rule", [kl_cfws, kl_entropy], ids=lambda rule: rule.__name__)
@given(statistics=activations())
def test_kl_keeps_its_share_of_the_mass(
    rule: object, keep: float, statistics: ActivationStatistics
) -> None:
    """Also where the peak lies in the lower half of the last bin, which was once left out."""
    config = RangesConfig(kl_keep=keep)
    threshold = rule(statistics, 128, config)  # type: ignore[operator]
    bins = int(np.ceil(threshold / statistics.bin_width * (1 - 1e-9)))
    assert statistics.magnitude[:bins].sum() >= keep * statistics.magnitude.sum() * (1 - 1e-12)


@pytest.mark.parametrize(
    ("distance", "least_gain", "is_clipped"),
    [(1.4, 1.5, False), (1.4, 1.0, True), (1.7, 1.5, True), (1.7, 2.0, False)],
)
def test_improved_kl_clips_more_than_a_few_values_only_for_a_much_finer_grid(
    distance: float, least_gain: float, is_clipped: bool
) -> None:
    counts = np.zeros(round(400 * distance))
    counts[:400] = 1e6 * np.exp(-((np.arange(400) / 120) ** 2))
    counts[-20:] = 300  # 6 of 100,000 values: more than the tenth of 1e-4 that goes for nothing
    threshold = kl_cfws(statistics_of(counts), 128, RangesConfig(kl_least_gain=least_gain))
    assert (threshold <= 400 * 0.25) is is_clipped


def test_improved_kl_does_not_care_how_far_out_the_tail_lies() -> None:
    """The point of the metric: textbook KL and min/max follow a rare value, it does not."""
    bell = np.round(1e6 * np.exp(-((np.arange(400) / 120) ** 2)))
    thresholds = []
    for distance in (600, 2000):
        counts = np.zeros(distance)
        counts[:400] = bell
        counts[-1] = 1
        thresholds.append(kl_cfws(statistics_of(counts), 128, RangesConfig(kl_keep=0.99)))
    assert thresholds[0] == thresholds[1]
    assert thresholds[0] <= 400 * 0.25


@methods
@given(statistics=activations())
def test_threshold_is_positive_and_no_larger_than_the_peak(
    method: str, statistics: ActivationStatistics
) -> None:
    assume(statistics.peak > 0)
    assert 0 < THRESHOLDS[method](statistics, 128, CONFIG) <= statistics.peak


@given(statistics=activations())
def test_minmax_is_the_peak(statistics: ActivationStatistics) -> None:
    assert minmax(statistics, 256, CONFIG) == statistics.peak


def test_mean_minmax_is_the_mean_over_images() -> None:
    observer = HistogramObserver()
    for peak in (1, 2, 9):
        observer.update(np.array([-0.5, peak], np.float32))
    assert mean_minmax(observer.statistics(), 256, CONFIG) == 4


@given(counts=histograms(), percent=st.floats(50.001, 100))
def test_percentile_is_the_smallest_edge_that_keeps_enough(counts: Array, percent: float) -> None:
    statistics = statistics_of(counts)
    threshold = percentile(statistics, 256, RangesConfig(percentile=percent))
    bins = round(threshold / statistics.bin_width)
    needed = percent / 100 * counts.sum() * (1 - 1e-12)
    assert counts[:bins].sum() >= needed
    assert counts[: bins - 1].sum() < needed * (1 + 2e-12)


@pytest.mark.parametrize(("percent", "bins"), [(50.001, 51), (90, 90), (99, 99), (100, 100)])
def test_percentile_of_evenly_spread_values(percent: float, bins: int) -> None:
    threshold = percentile(statistics_of(np.ones(100)), 256, RangesConfig(percentile=percent))
    assert threshold == bins * 0.25


@given(counts=histograms(), levels=st.sampled_from([4, 16, 256]))
def test_mse_equals_brute_force(counts: Array, levels: int) -> None:
    statistics = statistics_of(counts)
    centers = (np.arange(len(counts)) + 0.5) * 0.25
    costs = []
    for threshold in np.arange(1, len(counts) + 1) * 0.25:
        inside = centers < threshold
        rounding = counts[inside].sum() * (threshold / levels) ** 2 / 12
        clipping = (counts[~inside] * (centers[~inside] - threshold) ** 2).sum()
        costs.append(rounding + clipping)
    chosen = round(mse(statistics, levels, CONFIG) / 0.25) - 1
    assert costs[chosen] == pytest.approx(min(costs), rel=1e-6, abs=1e-6)


@methods
def test_a_decoded_image_keeps_its_range(method: str) -> None:
    """Its 256 values are a grid already: any other threshold is off that grid."""
    levels = np.random.default_rng(0).integers(0, 256, (3, 64, 64))
    levels[0, 0, 0] = 255
    observer = HistogramObserver()
    observer.update((levels / 255).astype(np.float32))
    statistics = observer.statistics()
    assert is_comb(statistics.magnitude, 256)
    config = RangesConfig(percentile=90, kl_keep=0.9)
    assert choose_range(statistics, method, config, symmetric=False) == Range(0, 1)


def test_smooth_values_are_no_comb() -> None:
    observer = HistogramObserver()
    observer.update(np.abs(np.random.default_rng(0).normal(size=50_000)).astype(np.float32))
    assert not is_comb(observer.statistics().magnitude, 256)


@methods
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@given(statistics=activations())
def test_grid_has_the_form_that_the_tensor_needs(
    method: str, symmetric: bool, statistics: ActivationStatistics
) -> None:
    assume(statistics.peak > 0)
    chosen = choose_range(statistics, method, CONFIG, symmetric=symmetric)
    step = (chosen.high - chosen.low) / 255
    zero_point = -chosen.low / step
    assert zero_point == pytest.approx(round(zero_point), abs=1e-6)
    assert chosen.high <= statistics.peak * (1 + 1 / 100)
    if statistics.low >= 0:
        assert chosen.low == 0
    elif symmetric:
        assert chosen.low == pytest.approx(-chosen.high * 128 / 127)
    else:
        assert chosen.low >= statistics.low - 1.001 * step
        assert chosen.high <= max(statistics.high, 0) + 1.001 * step


@pytest.mark.parametrize(
    ("values", "symmetric", "expected"),
    [
        ([0, 1, 4], False, Range(0, 4)),
        ([0, 1, 4], True, Range(0, 4)),
        ([-2, 1, 4], True, Range(-4 * 128 / 127, 4)),
        ([-2, 1, 4], False, Range(-2, 4)),
        ([-4, 1, 2], False, Range(-4, 2)),
        ([0, 0, 0], False, Range(0, 1)),
        ([0, 0, 0], True, Range(0, 1)),
        ([-3, -3], False, Range(-3, 3 / 254)),
    ],
    ids=[
        "unsigned",
        "unsigned, symmetric asked",
        "symmetric",
        "asymmetric up",
        "asymmetric down",
        "all zero",
        "all zero, symmetric",
        "one negative value",
    ],
)
def test_range_of_known_values(values: list[float], symmetric: bool, expected: Range) -> None:
    observer = HistogramObserver()
    observer.update(np.array(values, np.float32))
    chosen = choose_range(observer.statistics(), "minmax", CONFIG, symmetric=symmetric)
    assert chosen.low == pytest.approx(expected.low)
    assert chosen.high == pytest.approx(expected.high)


@given(
    low=st.floats(-1e6, 0),
    high=st.floats(0, 1e6),
    levels=st.sampled_from([4, 16, 255, 256]),
)
def test_aligned_zero_lies_on_the_grid_and_wastes_one_step_at_most(
    low: float, high: float, levels: int
) -> None:
    assume(high - low > 1e-6)
    aligned = align_zero(low, high, levels=levels)
    step = (aligned.high - aligned.low) / (levels - 1)
    assert -aligned.low / step == pytest.approx(round(-aligned.low / step), abs=1e-6)
    assert aligned.high >= high * (1 - 1e-9)
    assert aligned.low <= low + 0.5 * step * (1 + 1e-9)  # less than that rounds to zero anyway
    assert aligned.high - aligned.low <= high - low + step * (1 + 1e-9)


def test_short_negative_tail_costs_one_level_more_and_not_half_the_resolution() -> None:
    """[-0.278, 47] is a SiLU's output; the nearest zero point, 1, made the step 0.278."""
    aligned = align_zero(-0.278, 47, levels=256)
    assert aligned.high == pytest.approx(47)
    assert aligned.low == pytest.approx(-2 * 47 / 253)


@pytest.mark.parametrize(("low", "high"), [(0.1, 1), (-1, 0), (0, 0), (0, -1), (0, float("nan"))])
def test_range_without_zero_or_extent_is_an_error(low: float, high: float) -> None:
    with pytest.raises(CalibrationError, match="expected low <= 0 < high"):
        Range(low, high)


def test_every_rule_of_the_configuration_exists() -> None:
    assert {*THRESHOLDS, "placement"} == set(get_args(RangeMethod))


@given(st.floats(-100, 0), st.floats(2**-10, 100))
def test_signed_grid_covers_the_range_and_needs_no_zero_point(low: float, high: float) -> None:
    signed = Range(low, high).signed
    assert not signed.needs_zero_point
    assert signed.low <= low * (1 - 1e-12)
    assert signed.high >= high
    assert signed.high == high or signed.low == pytest.approx(low)


@pytest.mark.parametrize(
    ("grid", "expected"),
    [(Range(0, 4), False), (Range(-1, 4), True), (Range(-128, 127), False), (Range(-4, 1), True)],
)
def test_zero_inside_a_grid_needs_a_zero_point_unless_in_the_middle(
    grid: Range, expected: bool
) -> None:
    assert grid.needs_zero_point is expected
