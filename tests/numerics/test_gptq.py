from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from detq.numerics.cfws import PAIR_LIMIT
from detq.numerics.gptq import _inverse_factor, round_with_feedback

Array = npt.NDArray[np.float64]
RANDOM = np.random.default_rng(5)


def _correlated(size: int, samples: int = 400) -> Array:
    """(samples, size): inputs of which each resembles its neighbours, as taps of a kernel do."""
    noise = RANDOM.normal(size=(samples, size + 8))
    return np.asarray(np.stack([noise[:, i : i + 8].sum(1) for i in range(size)], 1), np.float64)


def _error(weight: Array, rounded: Array, inputs: Array) -> float:
    return float(np.square((weight - rounded) @ inputs.T).sum())


def test_output_error_is_a_fraction_of_nearest_rounding() -> None:
    inputs, weight = _correlated(60), RANDOM.normal(size=(10, 60))
    step = np.full((10, 1), 0.4)
    integers = round_with_feedback(weight, step, inputs.T @ inputs)
    nearest = np.rint(weight / step)
    assert _error(weight, integers * step, inputs) < 0.5 * _error(weight, nearest * step, inputs)


def test_it_also_holds_for_inputs_not_seen() -> None:
    seen, unseen = np.split(_correlated(60, 2000), 2)
    weight, step = RANDOM.normal(size=(10, 60)), np.full((10, 1), 0.4)
    integers = round_with_feedback(weight, step, seen.T @ seen)
    nearest = np.rint(weight / step)
    assert _error(weight, integers * step, unseen) < 0.5 * _error(weight, nearest * step, unseen)


def test_independent_inputs_leave_nothing_to_feed_back() -> None:
    weight = RANDOM.normal(size=(4, 20))
    step = np.full((4, 1), 0.1)
    integers = round_with_feedback(weight, step, np.eye(20))
    np.testing.assert_array_equal(integers, np.rint(weight / step))


def test_weights_on_the_grid_stay() -> None:
    inputs = _correlated(30)
    integers = RANDOM.integers(-127, 128, (6, 30)).astype(np.float64)
    step = RANDOM.uniform(0.01, 0.1, (6, 1))
    found = round_with_feedback(integers * step, step, inputs.T @ inputs)
    np.testing.assert_array_equal(found, integers)


def test_two_weights_by_hand() -> None:
    """Equal inputs: 0.4 rounds to 0, and its neighbour takes over what is missing."""
    moments = np.array([[1.0, 1.0], [1.0, 1.0]])
    found = round_with_feedback(np.array([[0.4, 0.4]]), np.ones((1, 1)), moments)
    np.testing.assert_array_equal(found, [[0, 1]])


def test_integers_stay_within_their_bits() -> None:
    inputs = _correlated(40)
    weight = RANDOM.normal(size=(8, 40)) * 3
    found = round_with_feedback(weight, np.full((8, 1), 0.1), inputs.T @ inputs, largest=7)
    assert np.abs(found).max() == 7


def test_no_pair_exceeds_its_limit() -> None:
    inputs = _correlated(40)
    weight = np.abs(RANDOM.normal(size=(8, 40)))
    step = weight.max(axis=1, keepdims=True) / 127
    partner = np.arange(40) ^ 1
    free = round_with_feedback(weight, step, inputs.T @ inputs)
    bound = round_with_feedback(weight, step, inputs.T @ inputs, partners=partner[None])
    assert np.abs(free + free[:, partner]).max() > PAIR_LIMIT
    assert np.abs(bound + bound[:, partner]).max() <= PAIR_LIMIT


@pytest.mark.parametrize("dead", [0, 3, 20])
def test_inputs_that_are_always_zero(dead: int) -> None:
    inputs = _correlated(20)
    inputs[:, :dead] = 0
    weight, step = RANDOM.normal(size=(3, 20)), np.full((3, 1), 0.2)
    found = round_with_feedback(weight, step, inputs.T @ inputs)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, :dead], np.rint(weight / step)[:, :dead])


def test_factor_is_that_of_the_inverse() -> None:
    inputs = _correlated(25)
    moments = inputs.T @ inputs
    damped = moments + 0.01 * np.diagonal(moments).mean() * np.eye(25)
    factor = _inverse_factor(moments)
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(25), atol=1e-8)
    assert np.abs(np.tril(factor, -1)).max() == 0
