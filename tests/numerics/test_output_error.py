from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detq.numerics.output_error import output_error

Array = npt.NDArray[np.float32]


def _predictions(*objects: tuple[float, ...]) -> Array:
    """(1, 4 + nc, N) from one tuple of box and scores per candidate."""
    return np.array([np.transpose(objects)], np.float32)


def test_equal_outputs_differ_by_nothing() -> None:
    one = _predictions((10, 10, 4, 4, 0.9, 0.1), (50, 50, 8, 8, 0.2, 0.3))
    assert output_error(one, one) == 0


def test_change_of_a_score_relative_to_all_scores() -> None:
    one = _predictions((10, 10, 4, 4, 0.8, 0.0), (50, 50, 8, 8, 0.2, 0.0))
    two = _predictions((10, 10, 4, 4, 0.7, 0.0), (50, 50, 8, 8, 0.2, 0.0))
    np.testing.assert_allclose(output_error(one, two), 0.1, rtol=1e-5)


def test_shift_of_a_box_counts_by_its_size_and_score() -> None:
    one = _predictions((10, 10, 4, 4, 0.5))
    near, far = _predictions((11, 11, 4, 4, 0.5)), _predictions((90, 90, 4, 4, 0.5))
    large = _predictions((10, 10, 40, 40, 0.5))
    large_shifted = _predictions((11, 11, 40, 40, 0.5))
    assert 0 < output_error(one, near) < output_error(one, far)
    np.testing.assert_allclose(
        output_error(large, large_shifted), output_error(one, near) / 10, rtol=1e-5
    )


def test_background_does_not_count() -> None:
    one = _predictions((10, 10, 4, 4, 0.9), (50, 50, 8, 8, 0.01))
    two = _predictions((10, 10, 4, 4, 0.9), (20, 90, 1, 9, 0.04))
    assert output_error(one, two) == 0


def test_object_that_only_one_of_them_sees_counts_both_ways() -> None:
    something, nothing = _predictions((10, 10, 4, 4, 0.9)), _predictions((10, 10, 4, 4, 0.0))
    assert output_error(something, nothing) > 0.5
    assert output_error(nothing, something) > 0.5
    assert output_error(nothing, nothing) == 0
