"""Error-feedback rounding: what one rounded weight gets wrong, the weights after it make up for.

The nearest integer is best for a weight, not for the sum it goes into. Weights that see correlated
inputs, as the taps of one kernel do, can share their rounding errors out: for the second moments
``H = E[x x^T]`` of a layer's inputs this minimises ``E[((W - Q) x)^2]`` greedily, one input at a
time, each error handed on through the Cholesky factor of ``H^-1`` (Frantar et al., GPTQ, arXiv
2210.17323; OBQ, arXiv 2208.11580). The small neighbours of a re-parameterized kernel's large
centre, for which a whole step is a lot, profit most. Pure numpy and scipy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from detq.numerics.cfws import PAIR_LIMIT

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

DAMPING = 0.01
"""Share of the mean second moment added to each: keeps H invertible and errors from piling up."""
_ROWS = 32  # updated at a time, for speed only


def round_with_feedback(
    weight: npt.NDArray[np.floating],
    step: npt.NDArray[np.floating],
    moments: npt.NDArray[np.floating],
    *,
    largest: int = 127,
    partners: Indices | None = None,
) -> Array:
    """``weight`` (O, n) -> integers (O, n) with ``integers * step`` close to it on the inputs seen.

    ``step`` (O, 1) positive, ``moments`` (n, n) the inputs' second moments. Integers lie within
    ``+-largest``. ``partners`` (P, n) names for each input those whose integer weights may not
    add up with its own beyond :data:`~detq.numerics.cfws.PAIR_LIMIT`, -1 for none.
    """
    order = np.argsort(-np.diagonal(moments), kind="stable")  # the strongest inputs choose first
    factor = _inverse_factor(moments[np.ix_(order, order)].astype(np.float64))
    remaining = np.ascontiguousarray(weight.T[order], np.float64)  # (n, O): an input is one row
    steps = step[:, 0].astype(np.float64)
    integers = np.zeros_like(remaining)
    before = [_earlier_partner(order, some) for some in (() if partners is None else partners)]
    for start in range(0, len(order), _ROWS):
        stop = min(start + _ROWS, len(order))
        errors = np.zeros((stop - start, len(weight)))
        for row in range(start, stop):
            low, high = -largest, largest
            for earlier in before:
                if earlier[row] >= 0:
                    taken = integers[earlier[row]]
                    low = np.maximum(low, -PAIR_LIMIT - np.minimum(taken, 0))
                    high = np.minimum(high, PAIR_LIMIT - np.maximum(taken, 0))
            integers[row] = np.clip(np.rint(remaining[row] / steps), low, high)
            error = (remaining[row] - integers[row] * steps) / factor[row, row]
            remaining[row + 1 : stop] -= factor[row, row + 1 : stop, None] * error
            errors[row - start] = error
        remaining[stop:] -= factor[start:stop, stop:].T @ errors
    result = np.empty_like(weight, np.float64)
    result[:, order] = integers.T
    return result


def _inverse_factor(moments: Array) -> Array:
    """Upper triangular ``U`` with ``U^T U`` the inverse of the damped moments."""
    size = len(moments)
    damped = moments.copy()
    unseen = np.diagonal(moments) <= 0
    mean = float(np.diagonal(moments)[~unseen].mean()) if (~unseen).any() else 1.0
    damped[np.diag_indices(size)] += DAMPING * mean
    # With the order of rows and columns reversed, the Cholesky factor of H is U's inverse.
    lower = np.linalg.cholesky(damped[::-1, ::-1])
    inverse = solve_triangular(lower, np.eye(size), lower=True)
    return np.asarray(inverse[::-1, ::-1], np.float64)


def _earlier_partner(order: Indices, partner: Indices) -> Indices:
    """For each place in ``order`` the place of its partner, if that comes before it; else -1."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    of_partner = np.where(partner[order] >= 0, place[partner[order]], -1)
    return np.where(of_partner < np.arange(len(order)), of_partner, -1)
