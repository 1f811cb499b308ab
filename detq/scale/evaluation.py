"""A detector over the images of a split, by the workers of a Ray cluster."""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detq.data.dataset import Split
from detq.evaluation.evaluator import Judged, Truth, judge
from detq.progress import Steps
from detq.runtime.detector import Detector
from detq.runtime.options import RuntimeOptions
from detq.scale.cluster import Cluster, beside_others, packed, unpacked

PIECE = 64
"""So many images are one worker's next work."""


@dataclass(frozen=True)
class RunOnRay:
    """In place of :func:`~detq.evaluation.evaluator.judge`: the same matches, bit for bit."""

    cluster: Cluster

    def __call__(
        self, detector: Detector, split: Split, truth: Truth, *, progress: Steps | None = None
    ) -> Judged:
        """Raises DataError for what is no image file at all, and what :meth:`Cluster.map` does."""
        started_s = time.perf_counter()
        rows = [{"part": pickle.dumps(part)} for part in split.parts(PIECE)]
        made_of = (detector.preprocess, detector.postprocess, detector.rect)
        options = beside_others(self.cluster.threads, detector.options)
        arguments = (packed(detector.graph), str(Path.cwd()), made_of, truth, options)
        parts: list[Judged] = []
        done = 0
        for row in self.cluster.map(_Actor, arguments, rows):
            judged: Judged = pickle.loads(row["judged"])  # noqa: S301 - from our own worker
            parts.append(judged)
            done += int(row["images"])
            if progress is not None:
                progress(done, len(split.images))
        return replace(Judged.of(parts), seconds=time.perf_counter() - started_s)


class _Actor:
    """A worker on Ray."""

    def __init__(
        self, parts: Any, folder: str, made_of: Any, truth: Truth, options: RuntimeOptions
    ) -> None:
        preprocess, postprocess, rect = made_of
        self._truth = truth
        self._detector = Detector(
            unpacked(parts, folder),
            preprocess=preprocess,
            postprocess=postprocess,
            options=options,
            rect=rect,
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        part: Split = pickle.loads(batch["part"][0])  # noqa: S301 - from our own driver
        judged = judge(self._detector, part, self._truth)
        return {"images": [len(part.images)], "judged": [pickle.dumps(judged)]}
