"""How far a network's output is from another's, as one smooth number. Pure numpy.

mAP moves in jumps and needs many images; the search for ranges compares networks that differ in one
tensor, on a few images, and needs a measure that every rounding error moves a little.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Predictions = npt.NDArray[np.float32]

LEAST_SCORE = 0.05
"""Candidates that neither network scores higher than this never become a detection."""
BOX_WEIGHT = 4.0
"""A box shifted by its own size costs as much as this much of a score."""


def output_error(reference: Predictions, candidate: Predictions) -> float:
    """(1, 4 + nc, N) twice, as :class:`~detq.graph.detector_graph.DetectorGraph` gives them.

    Sum over candidates that score in either of the change of all class scores and, by score, of the
    mean change of the four box numbers relative to the box's size; divided by the scores that
    the reference gives. 0 for equal outputs.

    A classifier's (1, nc): the share of the scores that moved to other classes.
    """
    if reference.ndim == 2:
        return float(np.abs(candidate - reference).sum() / 2)
    boxes, scores = reference[0, :4], reference[0, 4:]
    other_boxes, other_scores = candidate[0, :4], candidate[0, 4:]
    best = np.maximum(scores.max(axis=0), other_scores.max(axis=0))
    counted = best > LEAST_SCORE
    boxes, scores, other_boxes, other_scores, best = (
        values[..., counted] for values in (boxes, scores, other_boxes, other_scores, best)
    )
    size = np.sqrt(np.maximum(boxes[2] * boxes[3], 1.0))
    shift = np.minimum(np.abs(other_boxes - boxes).mean(axis=0) / size, 1.0)
    change = np.abs(other_scores - scores).sum() + BOX_WEIGHT * (best * shift).sum()
    certainty = scores.max(axis=0, initial=0.0)
    return float(change / max(certainty[certainty > LEAST_SCORE].sum(), 0.01))
