"""Are these predictions boxes? What holds for any detector's output, whatever it was trained on.

On an image that shows nothing in particular, the boxes of a detector lie where their cells lie,
their size does not depend on where that is, and scores are shares. A table that is not decoded, or
corners that are taken for centre and size, breaks one of these; nothing else about it looks wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from detq.records import SizeHW

Floats = npt.NDArray[np.float32]

_SCORE_SLACK = 1e-3
LEAST_SHARE = 0.98
"""Of all predictions, for what has to hold for each: a network may have some dead cells."""
LEAST_SHARE_FREE = 0.5
"""The same of sizes that nothing in the network keeps positive where it sees no object."""
_SLOPE = (0.5, 1.5)
"""Centres move by 1 px when cells do, but for the noise of untrained networks."""
_BEYOND = 0.5
"""Of a side: centres that are predicted as corrections of others may leave the image so far."""


def implausible(
    predictions: Sequence[Floats],
    strides: Sequence[int],
    size_hw: SizeHW,
    *,
    least_positive: float = LEAST_SHARE,
) -> str | None:
    """Why predictions [4 + nc, N] of some images cannot be boxes and scores, None if they can.

    Each is centre x, centre y, width, height in input pixels, then scores. Where N is a multiple of
    the number of cells of ``strides``, centres are compared with the cells, anchors in any order.
    Without strides, predictions belong to no cells, and have to lie in the image.
    """
    table = np.concatenate([each[None] for each in predictions]).astype(np.float64)
    boxes, scores = table[:, :4], table[:, 4:]
    if not np.isfinite(boxes).mean() >= LEAST_SHARE or not np.isfinite(scores).all():
        return "numbers that are not finite"
    if (scores < -_SCORE_SLACK).any() or (scores > 1 + _SCORE_SLACK).any():
        return f"scores of {scores.min():.3g} to {scores.max():.3g}, expected 0 to 1"
    boxes = boxes[..., np.isfinite(boxes).all((0, 1))]
    positive = (boxes[:, 2:] > 0).mean()
    if positive < least_positive:
        return f"{100 * (1 - positive):.0f}% of the boxes without a positive size"
    if not strides:
        return _outside(boxes, size_hw)
    if boxes.shape[2] < table.shape[2]:
        return None
    return _misplaced(boxes, strides, size_hw)


def _outside(boxes: npt.NDArray[np.float64], size_hw: SizeHW) -> str | None:
    """Centres that are not in the image, or shares of it that were never multiplied."""
    sides = np.array(size_hw[::-1], np.float64).reshape(1, 2, 1)
    shares = boxes[:, :2] / sides
    inside = ((shares >= -_BEYOND) & (shares <= 1 + _BEYOND)).all(1).mean()
    if inside < LEAST_SHARE:
        return f"{100 * (1 - inside):.0f}% of the boxes outside of the image"
    return None


def _misplaced(
    boxes: npt.NDArray[np.float64], strides: Sequence[int], size_hw: SizeHW
) -> str | None:
    """Centres that do not follow their cells, or sizes that do."""
    for axis, side in enumerate(("x", "y")):
        slopes = [
            (
                _slope(cells[axis], boxes[:, axis].mean(0)),
                _slope(cells[axis], boxes[:, 2 + axis].mean(0)),
            )
            for cells in _orders(boxes.shape[2], strides, size_hw)
            if np.ptp(cells[axis]) > 0
        ]
        if not slopes:
            continue
        centre, size = min(slopes, key=lambda pair: abs(pair[0] - 1))
        if not _SLOPE[0] <= centre <= _SLOPE[1]:
            return f"centres that move by {centre:.2g} px in {side} where cells move by 1 px"
        if abs(size) > _SLOPE[0]:
            return f"sizes that grow by {size:.2g} px where cells move by 1 px in {side}"
    return None


def _slope(cells: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> float:
    centred = cells - cells.mean()
    return float(centred @ (values - values.mean()) / (centred @ centred))


def _orders(
    count: int, strides: Sequence[int], size_hw: SizeHW
) -> Iterator[npt.NDArray[np.float64]]:
    """[2, N]: x and y of each prediction's cell in pixels; anchors and levels in any order."""
    for levels in (strides, tuple(reversed(strides))):
        grids = []
        for stride in levels:
            height, width = (-(-side // stride) for side in size_hw)
            rows, columns = np.mgrid[:height, :width]
            grids.append(np.stack((columns, rows)).reshape(2, -1) * float(stride))
        per_cell, rest = divmod(count, sum(grid.shape[1] for grid in grids))
        if rest or not per_cell:
            return
        yield np.concatenate([np.tile(grid, (1, per_cell)) for grid in grids], 1)
        if per_cell > 1:
            yield np.concatenate([np.repeat(grid, per_cell, 1) for grid in grids], 1)
