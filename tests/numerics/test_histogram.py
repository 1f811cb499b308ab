from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from detq.errors import CalibrationError
from detq.numerics.histogram import EXACT_COUNT, ActivationStatistics, HistogramObserver

Array = npt.NDArray[np.float32]

BINS = 32
_reasonable = st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False).map(
    lambda value: 0.0 if abs(value) < 2.0**-40 else value
)
tensors = arrays(np.float32, array_shapes(max_dims=4, max_side=6), elements=_reasonable)


def observed(images: Sequence[Array], *, bins: int = BINS) -> ActivationStatistics:
    observer = HistogramObserver(bins)
    for image in images:
        observer.update(image)
    return observer.statistics()


def assert_counts_equal(counts: Array, values: Array, bin_width: float) -> None:
    """Equal to ``np.histogram`` but for values within float32 rounding of a bin's edge."""
    edges = np.arange(len(counts) + 1) * bin_width
    slack = 1e-5 * edges[-1]
    least, most = (
        (values[None] > lowest) & (values[None] <= highest[:, None])
        for lowest, highest in ((slack, edges - slack), (-slack, edges + slack))
    )
    least, most = least.sum(axis=1), most.sum(axis=1)
    below = np.concatenate([[0], np.cumsum(counts)])
    assert (counts >= 0).all()
    assert (least <= below).all()
    assert (below <= most).all()


@given(images=st.lists(tensors, min_size=1, max_size=6), order=st.randoms())
def test_equals_a_histogram_of_all_values_at_once(images: list[Array], order: object) -> None:
    order.shuffle(images)  # type: ignore[attr-defined]
    statistics = observed(images)
    values = np.concatenate([image.ravel() for image in images])
    assert statistics.zeros == (values == 0).sum()
    assert (statistics.low, statistics.high) == (values.min(), values.max())
    assert statistics.peak == np.abs(values).max()
    assert statistics.images == len(images)
    assert statistics.mean_low == pytest.approx(np.mean([image.min() for image in images]))
    assert statistics.mean_high == pytest.approx(np.mean([image.max() for image in images]))
    assert statistics.magnitude.sum() == (values != 0).sum()
    width = statistics.bin_width
    nonzero = values[values != 0].astype(np.float64)
    assert_counts_equal(statistics.magnitude, np.abs(nonzero), width)
    assert_counts_equal(statistics.positive, nonzero, width)
    assert_counts_equal(statistics.negative, -nonzero, width)


@given(images=st.lists(tensors, min_size=1, max_size=4))
def test_bins_cover_the_peak_with_the_promised_resolution(images: list[Array]) -> None:
    statistics = observed(images)
    count = len(statistics.magnitude)
    assert len(statistics.positive) == len(statistics.negative) == count
    assert statistics.peak <= count * statistics.bin_width * (1 + 1e-6)
    if statistics.peak > 0:
        assert BINS <= count <= 2 * BINS
        assert statistics.peak > (count - 1) * statistics.bin_width * (1 - 1e-6)


@given(images=st.lists(tensors, min_size=2, max_size=6))
def test_chunks_do_not_matter(images: list[Array]) -> None:
    """One image's values in several tensors count as they do in one."""
    whole = observed([np.concatenate([image.ravel() for image in images])])
    observer = HistogramObserver(BINS)
    observer.update(*images)
    apart = observer.statistics()
    np.testing.assert_array_equal(apart.positive, whole.positive)
    np.testing.assert_array_equal(apart.negative, whole.negative)
    assert (apart.zeros, apart.images) == (whole.zeros, 1)
    assert (apart.mean_low, apart.mean_high) == (whole.mean_low, whole.mean_high)


def test_doubling_the_reach_loses_and_moves_nothing() -> None:
    middles = (np.arange(2 * BINS, dtype=np.float32) + 0.5) / (2 * BINS)
    before = observed([np.append(middles, 1).astype(np.float32)])
    after = observed([np.append(middles, 1).astype(np.float32), np.array([6.5], np.float32)])
    assert after.bin_width == 8 * before.bin_width
    merged = before.positive.reshape(-1, 8).sum(axis=1)
    np.testing.assert_array_equal(after.positive[: len(merged)], merged)
    assert after.positive[-1] == 1
    assert after.positive.sum() == before.positive.sum() + 1


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    observer = HistogramObserver(BINS)
    generator = np.random.default_rng(0)
    for scale in (1, 10, 1000):
        observer.update(scale * generator.normal(size=100).astype(np.float32))
        assert observer._counts is not None
        assert observer._counts.shape == (4 * BINS,)


@given(scale=st.floats(1e-6, 1e6), zeros=st.integers(0, 20))
def test_exact_zeros_are_counted_apart(scale: float, zeros: int) -> None:
    """Zero lies on a bin edge, where rounding once put it into the first negative bin."""
    values = np.array([scale, *[0.0] * zeros], np.float32)
    statistics = observed([values])
    assert statistics.zeros == zeros
    assert statistics.positive[-1] == 1
    assert statistics.positive.sum() == 1
    assert not statistics.negative.any()


def test_more_zeros_than_a_float32_counts() -> None:
    """An odd number above 2**24 is no float32: one value once went missing from the bins."""
    values = np.zeros(EXACT_COUNT + 4, np.float32)
    values[:3] = 1
    statistics = observed([values])
    assert statistics.zeros == EXACT_COUNT + 1
    assert statistics.positive.sum() == 3
    assert not statistics.negative.any()
    assert (statistics.positive >= 0).all()


def test_values_of_one_magnitude_share_a_bin_whatever_their_sign() -> None:
    statistics = observed([np.array([-0.7, 0.7, 1, -0.3], np.float32)])
    assert statistics.magnitude[int(0.7 * 2 * BINS)] == 2
    assert (statistics.positive.sum(), statistics.negative.sum()) == (2, 2)


def test_nothing_but_zeros() -> None:
    statistics = observed([np.zeros((1, 2, 3), np.float32)])
    assert (statistics.zeros, statistics.peak) == (6, 0)
    assert not statistics.magnitude.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("first", [True, False], ids=["first tensor", "second tensor"])
def test_undefined_value_is_an_error(value: float, first: bool) -> None:
    good, bad = np.ones(4, np.float32), np.array([1, value, 2], np.float32)
    pair = (bad, good) if first else (good, bad)
    with pytest.raises(CalibrationError, match="infinite or undefined"):
        HistogramObserver(BINS).update(*pair)


def test_no_data_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="saw no data"):
        HistogramObserver(BINS).statistics()
