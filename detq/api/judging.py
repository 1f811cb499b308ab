"""How far an INT8 model finds what its float model finds, on images that need no labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detq.errors import CalibrationError
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Progress
from detq.runtime.detector import CompiledGraph
from detq.tasks import strategy_of

LEAST_AGREEMENT = 20.0
"""Below this agreement with the float model, the INT8 model is broken and not handed out."""

EXPECTED_LOSSES = (
    (98.0, -0.1, 1.3),
    (95.0, -0.5, 2.0),
    (90.0, -0.7, 2.0),
    (80.0, -0.7, 7.4),
)
"""Agreement from which on, and between which points of mAP 95 of 100 losses were that were measured
with it: of other detectors, on other images (docs/results.md, `tools/zoo.py`). Of a model that is
new to them, 88 to 90 of 100 lie inside. The test images' own noise is part of it."""
LEAST_JUDGES = 64
"""With fewer images agreement itself is too noisy to say that."""


def expected_loss(percent: float, images: int) -> tuple[float, float] | None:
    """The interval for an agreement on so many held-back images; None below what was measured."""
    if images < LEAST_JUDGES:
        return None
    for least, low, high in EXPECTED_LOSSES:
        if percent >= least:
            return low, high
    return None


def agreement(
    exact: DetectorGraph,
    int8: CompiledGraph,
    paths: Sequence[Path],
    progress: Progress,
    *,
    must_hold: bool = False,
) -> float | None:
    """mAP of INT8 detections against the float model's, in percent, None if that found nothing; of
    classifiers the share of images that both take for the same.

    Raises CalibrationError, if it ``must_hold``, for an INT8 model that contradicts a float model
    which is certain of what it sees.
    """
    strategy = strategy_of(exact.spec)
    reference = strategy.compiled(exact)
    wanted = strategy.run(reference, paths, progress=partial(progress, "running float"))
    found = strategy.run(int8, paths, progress=partial(progress, "running INT8"))
    percent = strategy.agreement(wanted, found, class_count=exact.spec.class_count)
    broken = percent is not None and percent < LEAST_AGREEMENT
    if must_hold and broken and strategy.is_certain(reference, wanted):
        raise CalibrationError(
            f"{exact.spec.name}: INT8 agrees with float to {percent:.1f}% only: it is broken; "
            "try another --recipe, or calibration images closer to the real ones"
        )
    return percent
