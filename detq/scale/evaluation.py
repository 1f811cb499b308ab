"""A detector over the images of a split, by the workers of a Ray cluster."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detq.evaluation.evaluator import Run, run_detector
from detq.progress import Steps
from detq.records import Detections
from detq.runtime.detector import Detector
from detq.scale.cluster import Cluster, beside_others, packed, unpacked

PIECE = 64
"""So many images are one worker's next work."""


@dataclass(frozen=True)
class RunOnRay:
    """In place of :func:`~detq.evaluation.evaluator.run_detector`: the same detections, bit for
    bit, in the same order.
    """

    cluster: Cluster

    def __call__(
        self, detector: Detector, paths: Sequence[Path], *, progress: Steps | None = None
    ) -> Run:
        """Raises DataError for what is no image file at all, and what :meth:`Cluster.map` does."""
        started_s = time.perf_counter()
        rows = [
            {"start": start, "paths": [str(path) for path in paths[start : start + PIECE]]}
            for start in range(0, len(paths), PIECE)
        ]
        made_of = (detector.preprocess, detector.postprocess, detector.rect)
        arguments = (packed(detector.graph), str(Path.cwd()), made_of, self.cluster.threads)
        runs: dict[int, Run] = {}
        done = 0
        for row in self.cluster.map(_Actor, arguments, rows):
            run: Run = pickle.loads(row["run"])  # noqa: S301 - from our own worker
            runs[int(row["start"])] = run
            done += len(run.detections)
            if progress is not None:
                progress(done, len(paths))
        ordered = [runs[start] for start in sorted(runs)]
        found: list[Detections] = [each for run in ordered for each in run.detections]
        damaged = [path for run in ordered for path in run.damaged]
        return Run(tuple(found), time.perf_counter() - started_s, tuple(damaged))


class _Actor:
    """A worker on Ray."""

    def __init__(self, parts: Any, folder: str, made_of: Any, threads: int) -> None:
        preprocess, postprocess, rect = made_of
        self._detector = Detector(
            unpacked(parts, folder),
            preprocess=preprocess,
            postprocess=postprocess,
            options=beside_others(threads),
            rect=rect,
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        paths = [Path(str(path)) for path in batch["paths"][0]]
        run = replace(run_detector(self._detector, paths), seconds=0.0)
        return {"start": batch["start"], "run": [pickle.dumps(run)]}
