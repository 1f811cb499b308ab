"""Boxes of two programs, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Row = Mapping[str, Any]
"""``boxes`` (x1, y1, x2, y2), ``scores`` and ``class_ids``, as ``detq predict`` writes them."""


def worst_px(found: Row, expected: Row, *, confidence: float, apart: float) -> float:
    """The greatest distance between an edge of one and the same edge of the other, in pixels.

    Each box belongs to the other's box of its class that overlaps it most. One that has none must
    have a score within ``apart`` of the confidence: the other's may lie below it.
    """
    worst = 0.0
    for one, other in ((found, expected), (expected, found)):
        for box, score, class_id in zip(one["boxes"], one["scores"], one["class_ids"], strict=True):
            near = [
                (_overlap(box, its), its, its_score)
                for its, its_score, its_class in zip(
                    other["boxes"], other["scores"], other["class_ids"], strict=True
                )
                if its_class == class_id
            ]
            overlap, partner, its_score = max(near, default=(0.0, None, 0.0))
            if overlap < 0.7:
                assert score < confidence + apart, f"{box} ({score}) has no counterpart"
                continue
            assert abs(score - its_score) < apart
            worst = max(worst, float(np.abs(np.subtract(box, partner)).max()))
    return worst


def _overlap(first: list[float], second: list[float]) -> float:
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    both = float(np.prod(np.clip(high - low, 0, None)))
    areas = [float(np.prod(np.subtract(box[2:], box[:2]))) for box in (first, second)]
    return both / max(sum(areas) - both, 1e-9)
