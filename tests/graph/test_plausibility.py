"""What can be boxes, and what cannot: decoded, undecoded, corners, strange scores."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detq.graph.plausibility import implausible

STRIDES = (8, 16, 32)
SIZE_HW = (96, 160)
Table = npt.NDArray[np.float32]


def _table(*, per_cell: int = 1, cell_major: bool = False, noise: float = 0.5) -> Table:
    """[4 + 2, N]: boxes at their cells, with offsets of ``noise`` cells."""
    random = np.random.default_rng(0)
    parts = []
    for stride in STRIDES:
        rows, columns = np.mgrid[: SIZE_HW[0] // stride, : SIZE_HW[1] // stride]
        cells = np.stack((columns, rows)).reshape(2, -1) + 0.5
        spread = np.repeat if cell_major else np.tile
        cells = spread(cells, per_cell, 1) if cell_major else spread(cells, (1, per_cell))
        centres = (cells + noise * random.normal(size=cells.shape)) * stride
        parts.append(np.concatenate([centres, np.exp(random.normal(size=cells.shape)) * stride]))
    boxes = np.concatenate(parts, 1)
    return np.concatenate([boxes, random.random((2, boxes.shape[1]))]).astype(np.float32)


def _why(table: Table) -> str | None:
    return implausible([table, table], STRIDES, SIZE_HW)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([1, 3]), st.booleans(), st.floats(0, 2))
def test_boxes_at_their_cells_can_be(per_cell: int, cell_major: bool, noise: float) -> None:
    assert _why(_table(per_cell=per_cell, cell_major=cell_major, noise=noise)) is None


def test_a_number_of_boxes_that_is_none_of_cells_can_be() -> None:
    assert implausible([_table()[:, :100]], STRIDES, SIZE_HW) is None


def test_shares_of_a_cell_cannot_be() -> None:
    """As a table behind a sigmoid that nobody decoded."""
    table = _table()
    table[:4] = np.random.default_rng(1).random(table[:4].shape)
    assert "centres that move by" in str(_why(table))


def test_corners_cannot_be_centre_and_size() -> None:
    table = _table()
    centre, size = table[:2].copy(), table[2:4].copy()
    table[:2], table[2:4] = centre - size / 2, centre + size / 2
    assert "sizes that grow by" in str(_why(table))


def test_centre_and_size_cannot_be_corners() -> None:
    table = _table()
    low, high = table[:2].copy(), table[2:4].copy()
    table[:2], table[2:4] = (low + high) / 2, high - low
    assert "without a positive size" in str(_why(table))


def test_decoded_twice_cannot_be() -> None:
    table = _table()
    table[:2] *= 8
    assert "centres that move by" in str(_why(table))


@pytest.mark.parametrize(
    ("row", "value", "reason"),
    [(4, 1.5, "scores of"), (5, -3.0, "scores of"), (4, np.nan, "not finite")],
)
def test_scores_are_shares(row: int, value: float, reason: str) -> None:
    table = _table()
    table[row, 7] = value
    assert reason in str(_why(table))


def test_sizes_that_overflow_cannot_be() -> None:
    table = _table()
    table[2, : table.shape[1] // 2] = np.inf
    assert "not finite" in str(_why(table))
