from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from detq.models.heads import CenterDecode, DistanceDecode, cell_grid
from detq.models.stages import branch_lengths


def test_cells_run_row_by_row_and_level_by_level() -> None:
    cells, strides = cell_grid([(2, 3), (1, 1)], (8, 16))
    np.testing.assert_array_equal(
        cells[0].T, [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1], [0, 0]]
    )
    np.testing.assert_array_equal(strides[0, 0], [8] * 6 + [16])


def test_distances_reach_from_the_cell_centre_to_the_sides() -> None:
    distances = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)  # left, top, right, bottom
    predictions = DistanceDecode((8,), bins=1)([distances], [torch.zeros(1, 1, 1, 1)])
    # corners (0.5 - 1, 0.5 - 2) and (0.5 + 3, 0.5 + 4) strides
    assert predictions.flatten().tolist() == [1.5 * 8, 1.5 * 8, 4 * 8, 6 * 8, 0.5]


@pytest.mark.parametrize("side", range(4), ids=["left", "top", "right", "bottom"])
@pytest.mark.parametrize("distance", [0, 7, 16])
def test_a_sharp_distribution_is_its_bin(side: int, distance: int) -> None:
    logits = torch.zeros(1, 4, 17, 1, 1)
    logits[:, :, 0] = 100.0
    logits[:, side] = 0.0
    logits[:, side, distance] = 100.0
    plain = torch.zeros(1, 4, 1, 1)
    plain[:, side] = distance
    scores = [torch.zeros(1, 2, 1, 1)]
    expected = DistanceDecode((8,), bins=1)([plain], scores)
    actual = DistanceDecode((8,), bins=17)([logits.view(1, 68, 1, 1)], scores)
    torch.testing.assert_close(actual, expected)


def test_release_0_1_decodes_centre_and_size_and_multiplies_objectness() -> None:
    regression = torch.tensor([0.25, 0.75, 0.0, math.log(2.0)]).view(1, 4, 1, 1).expand(1, 4, 1, 2)
    scores = torch.zeros(1, 1, 1, 2)
    predictions = CenterDecode((16,))([regression], [scores], [scores])
    expected = [[0.25 * 16, 0.75 * 16, 16, 32, 0.25], [1.25 * 16, 0.75 * 16, 16, 32, 0.25]]
    torch.testing.assert_close(predictions[0].T, torch.tensor(expected))


@pytest.mark.parametrize(
    ("longest", "lengths"),
    [(1, (0, 1)), (2, (0, 1, 2)), (3, (0, 2, 3)), (4, (0, 2, 4)), (5, (0, 4, 5))],
)
def test_chains_of_an_mbla_stage(longest: int, lengths: tuple[int, ...]) -> None:
    assert branch_lengths(longest) == lengths
