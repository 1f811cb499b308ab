from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detq.numerics.cfws import (
    PAIR_LIMIT,
    Granularity,
    center_to_surround_ratio,
    cfws_sqnr_db,
    paired_channels,
    plain_sqnr_db,
    quantize_weight,
    split_center,
    split_residual,
    sqnr_db,
    weight_step,
)

Array = npt.NDArray[np.float32]

granularities = pytest.mark.parametrize("granularity", ["channel", "tensor"])


@st.composite
def kernels(draw: st.DrawFn) -> Array:
    """(O, I, k, k), neighbours and centres of any proportion, some channels and taps zero."""
    side = draw(st.sampled_from([1, 3, 5]))
    inputs = draw(st.sampled_from([1, 2, 3, 4, 5, 6, 12]))
    shape = (draw(st.integers(1, 6)), inputs, side, side)
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight = generator.normal(size=shape) * 10.0 ** generator.uniform(-4, 2, (shape[0], 1, 1, 1))
    weight[:, :, side // 2, side // 2] *= draw(st.floats(0, 100))
    weight *= generator.random(shape) < draw(st.floats(0.1, 1))
    return weight.astype(np.float32)


def repvgg_kernel(channels: int = 16, *, centre: float = 20.0) -> Array:
    """What re-parameterization makes: a 3x3 branch plus much larger 1x1 and identity branches."""
    generator = np.random.default_rng(0)
    weight = generator.uniform(-0.1, 0.1, (channels, channels, 3, 3)).astype(np.float32)
    peak = np.abs(weight).max(axis=(1, 2, 3))
    weight[:, :, 1, 1] += centre * peak[:, None] * np.eye(channels, dtype=np.float32)
    return weight


def pad(coarse: Array, kernel: tuple[int, ...]) -> Array:
    rows, columns = ((side - own) // 2 for side, own in zip(kernel, coarse.shape[2:], strict=True))
    return np.pad(coarse, ((0, 0), (0, 0), (rows, rows), (columns, columns)))


@granularities
@pytest.mark.parametrize("split", [split_center, split_residual], ids=["cfws", "residual"])
class TestEverySplit:
    @given(weight=kernels())
    def test_is_function_preserving(
        self, split: object, granularity: Granularity, weight: Array
    ) -> None:
        parts = split(weight, granularity=granularity)  # type: ignore[operator]
        restored = parts.fine + pad(parts.coarse, weight.shape[2:])
        np.testing.assert_allclose(restored, weight, rtol=2**-22, atol=1e-35)

    @given(weight=kernels())
    def test_coarse_kernel_quantizes_without_error(
        self, split: object, granularity: Granularity, weight: Array
    ) -> None:
        coarse = split(weight, granularity=granularity).coarse  # type: ignore[operator]
        quantized = quantize_weight(coarse, granularity=granularity)
        np.testing.assert_allclose(quantized, coarse, rtol=2**-22, atol=1e-35)

    @given(weight=kernels())
    def test_only_half_a_fine_step_is_lost_per_tap(
        self, split: object, granularity: Granularity, weight: Array
    ) -> None:
        parts = split(weight, granularity=granularity)  # type: ignore[operator]
        restored = quantize_weight(parts.fine, granularity=granularity).astype(np.float64)
        restored += pad(quantize_weight(parts.coarse, granularity=granularity), weight.shape[2:])
        half_step = weight_step(parts.fine, granularity=granularity) / 2
        half_step = np.where(parts.fine.any(axis=(1, 2, 3), keepdims=True), half_step, 0)
        rounding = 2**-21 * np.abs(weight).max() + 1e-35  # of float32, and its subnormal numbers
        assert (np.abs(restored - weight) <= half_step * (1 + 1e-5) + rounding).all()

    def test_leaves_its_argument_alone(self, split: object, granularity: Granularity) -> None:
        weight = repvgg_kernel()
        before = weight.copy()
        split(weight, granularity=granularity)  # type: ignore[operator]
        np.testing.assert_array_equal(weight, before)

    def test_zero_weight_stays_zero(self, split: object, granularity: Granularity) -> None:
        parts = split(np.zeros((2, 3, 3, 3), np.float32), granularity=granularity)  # type: ignore[operator]
        assert not parts.fine.any()
        assert not parts.coarse.any()


@given(weight=kernels())
def test_coarse_kernel_is_the_centre_tap_alone(weight: Array) -> None:
    split = split_center(weight)
    middle = weight.shape[2] // 2
    assert split.coarse.shape == (*weight.shape[:2], 1, 1)
    neighbours = np.ones(weight.shape[2:], bool)
    neighbours[middle, middle] = False
    np.testing.assert_array_equal(split.fine[:, :, neighbours], weight[:, :, neighbours])


def test_residual_variant_keeps_the_whole_kernel_on_the_coarse_grid() -> None:
    weight = repvgg_kernel()
    np.testing.assert_array_equal(split_residual(weight).coarse, quantize_weight(weight))


@given(weight=kernels())
def test_step_spans_the_largest_weight(weight: Array) -> None:
    per_channel = weight_step(weight)
    assert per_channel.shape == (len(weight), 1, 1, 1)
    peak = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(np.where(peak > 1e-30, per_channel * 127, peak), peak, rtol=1e-6)
    per_tensor = weight_step(weight, granularity="tensor")
    assert per_tensor.shape == (1, 1, 1, 1)
    if peak.max() > 1e-30:
        assert per_tensor.item() == per_channel[peak > 1e-30].max()


def test_a_zero_channel_does_not_disturb_its_neighbours() -> None:
    weight = repvgg_kernel()
    expected = split_center(weight[1:])
    weight[0] = 0
    split = split_center(weight)
    assert not split.fine[0].any()
    np.testing.assert_array_equal(split.fine[1:], expected.fine)
    np.testing.assert_array_equal(split.coarse[1:], expected.coarse)


def test_subnormal_weights_are_as_good_as_zero() -> None:
    """A channel that training decayed to 1e-43 once had a step that float32 rounds to 0."""
    weight = np.full((2, 2, 3, 3), 1e-43, np.float32)
    assert (weight_step(weight) > 0).all()
    np.testing.assert_allclose(quantize_weight(weight), 0, atol=1e-35)
    assert np.isfinite(split_center(weight).fine).all()


def test_grouped_kernels_split_one_by_one() -> None:
    """Groups joined with the output channels are channels like any other."""
    weight = repvgg_kernel(8).reshape(2, 4, 8, 3, 3)
    joined = split_center(weight.reshape(8, 8, 3, 3))
    for group in range(2):
        alone = split_center(weight[group])
        np.testing.assert_array_equal(joined.fine.reshape(weight.shape)[group], alone.fine)


@pytest.mark.parametrize("centre", [5.0, 20.0, 90.0])
def test_centre_to_surround_ratio_of_a_repvgg_kernel(centre: float) -> None:
    assert center_to_surround_ratio(repvgg_kernel(32, centre=centre)) == pytest.approx(
        centre, rel=0.25
    )


@pytest.mark.parametrize(
    ("weight", "ratio"),
    [
        (np.ones((4, 4, 3, 3), np.float32), 1.0),
        (np.ones((4, 4, 1, 1), np.float32), 1.0),
        (np.pad(np.ones((4, 4, 1, 1), np.float32), ((0, 0), (0, 0), (1, 1), (1, 1))), np.inf),
        (np.zeros((4, 4, 3, 3), np.float32), 0.0),
    ],
    ids=["even", "no neighbours", "only the centre", "zero"],
)
def test_centre_to_surround_ratio_at_the_edges(weight: Array, ratio: float) -> None:
    before = weight.copy()
    assert center_to_surround_ratio(weight) == ratio
    np.testing.assert_array_equal(weight, before)


@granularities
def test_split_saves_the_neighbours_of_an_outlier(granularity: Granularity) -> None:
    """A step 20 times finer is 26 dB on the neighbours."""
    weight = repvgg_kernel(32)
    gain = cfws_sqnr_db(weight, granularity=granularity) - plain_sqnr_db(
        weight, granularity=granularity
    )
    assert gain == pytest.approx(26, abs=3)


def test_signal_to_noise_ratio() -> None:
    ones = np.ones(100, np.float32)
    assert sqnr_db(ones, ones) == float("inf")
    assert sqnr_db(ones, 0.9 * ones) == pytest.approx(20)
    assert sqnr_db(0 * ones, ones) == float("-inf")


class TestPairLimit:
    @staticmethod
    def _sums(integers: Array) -> Array:
        """Same-sign sums of input channels 2j and 2j+1, written out pair by pair.

        Of an image's channels also in the order of BGR.
        """
        orders = [list(range(integers.shape[1]))]
        if len(orders[0]) in (3, 12):
            orders.append([3 * (i // 3) + 2 - i % 3 for i in orders[0]])
        sums = []
        for order in orders:
            for first, second in zip(order[0::2], order[1::2], strict=False):
                one, other = integers[:, first], integers[:, second]
                sums.append(np.where(one * other >= 0, np.abs(one + other), 0))
        return np.array(sums or [0.0])

    @granularities
    @given(weight=kernels())
    def test_no_pair_of_integers_overflows(self, granularity: Granularity, weight: Array) -> None:
        step = weight_step(weight, granularity=granularity, limit_pairs=True)
        integers = np.floor(weight / step + 0.5)
        assert self._sums(integers).max() <= PAIR_LIMIT
        assert np.abs(integers).max() <= 127

    @given(weight=kernels())
    def test_a_channel_without_a_large_pair_keeps_its_step(self, weight: Array) -> None:
        limited, free = weight_step(weight, limit_pairs=True), weight_step(weight)
        assert (limited >= free).all()
        harmless = np.array([self._sums(channel[None]).max() for channel in weight / free]) < 126
        np.testing.assert_array_equal(limited[harmless], free[harmless])

    def test_costs_one_bit_at_most(self) -> None:
        worst = np.ones((1, 2, 1, 1), np.float32)
        ratio = weight_step(worst, limit_pairs=True) / weight_step(worst)
        assert 1.9 < ratio.item() <= 2.0

    def test_signs_that_cancel_cost_nothing(self) -> None:
        weight = np.array([1.0, -1.0], np.float32).reshape(1, 2, 1, 1)
        np.testing.assert_array_equal(weight_step(weight, limit_pairs=True), weight_step(weight))

    def test_neighbours_of_different_pairs_cost_nothing(self) -> None:
        weight = np.array([0.0, 1.0, 1.0, 0.0], np.float32).reshape(1, 4, 1, 1)
        np.testing.assert_array_equal(weight_step(weight, limit_pairs=True), weight_step(weight))

    @pytest.mark.parametrize("pair", [(0, 1), (1, 2)])
    def test_of_an_image_the_order_of_colours_is_open(self, pair: tuple[int, int]) -> None:
        weight = np.zeros((1, 3, 1, 1), np.float32)
        weight[:, pair] = 1
        ratio = weight_step(weight, limit_pairs=True) / weight_step(weight)
        assert 1.9 < ratio.item() <= 2.0

    def test_pixels_in_fours_turn_one_by_one(self) -> None:
        first, turned = paired_channels(12)
        np.testing.assert_array_equal(first, [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10])
        np.testing.assert_array_equal(turned, [5, 2, 1, 4, 3, 0, 11, 8, 7, 10, 9, 6])

    @given(weight=kernels())
    def test_limited_split_is_function_preserving(self, weight: Array) -> None:
        split = split_center(weight, limit_pairs=True)
        restored = split.fine + pad(split.coarse, weight.shape[2:])
        np.testing.assert_allclose(restored, weight, rtol=1e-5, atol=1e-6 * np.abs(weight).max())
