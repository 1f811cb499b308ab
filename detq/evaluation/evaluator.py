"""Run a detector over a split and score what it finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detq.data.dataset import Split
from detq.data.images import read_images
from detq.errors import DataError
from detq.evaluation.classes import map_classes
from detq.evaluation.coco_map import CocoScores, coco_detections, score_detections
from detq.evaluation.protocol import PROTOCOLS, Protocol
from detq.records import Detections, EvalResult, ModelSpec
from detq.runtime.detector import Detector
from detq.runtime.execution import constant_bytes
from detq.runtime.pipeline import detect_stream

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""


@dataclass(frozen=True)
class Run:
    """What a detector found in each image, and the wall time of decoding, inference and NMS."""

    detections: tuple[Detections, ...]
    seconds: float


def run_detector(
    detector: Detector, paths: Sequence[Path], *, progress: Progress | None = None
) -> Run:
    """Detections in each image file, in order. Files are decoded while others are inferred.

    Raises DataError naming the first file that cannot be decoded, RuntimeTimeoutError if inference
    hangs.
    """
    found = []
    started_s = time.perf_counter()
    for frame in detect_stream(detector, read_images(paths)):
        found.append(frame.detections)
        if progress is not None:
            progress(len(found), len(paths))
    return Run(tuple(found), time.perf_counter() - started_s)


def score_run(
    detector: Detector, split: Split, run: Run, *, protocol: Protocol = PROTOCOLS["yolov6"]
) -> CocoScores:
    """COCO scores of a run over a split's images.

    Raises DataError if the split has no ground truth, or classes that the model does not know.
    """
    ground_truth, category_ids = _truth(detector.spec, split, protocol)
    entries = coco_detections(
        [image.image_id for image in split.images], run.detections, category_ids=category_ids
    )
    return score_detections(ground_truth, entries)


def evaluate(
    detector: Detector,
    split: Split,
    *,
    protocol: Protocol = PROTOCOLS["yolov6"],
    progress: Progress | None = None,
) -> EvalResult:
    """COCO mAP of a detector on a split; ``protocol`` says how the ground truth is counted.

    Raises DataError as :func:`run_detector` and :func:`score_run` do.
    """
    _truth(detector.spec, split, protocol)  # what is wrong with it is said before the long run
    run = run_detector(detector, split.paths, progress=progress)
    scores = score_run(detector, split, run, protocol=protocol)
    return EvalResult(
        model=detector.spec.name,
        map=scores.map,
        map50=scores.map50,
        map75=scores.map75,
        map_small=scores.map_small,
        map_medium=scores.map_medium,
        map_large=scores.map_large,
        images=len(split.images),
        seconds=run.seconds,
        precision=detector.executed_precision,
        size_mb=constant_bytes(detector.graph.model) / 1e6,
    )


def _truth(
    spec: ModelSpec, split: Split, protocol: Protocol
) -> tuple[dict[str, Any], tuple[int | None, ...]]:
    """The COCO document of a split, and which of its categories each class of the model is."""
    document = split.ground_truth(renumbered=protocol.renumbers)
    if document is None or split.annotations is None:
        raise DataError(
            f"split {split.name}: no ground truth, neither a COCO JSON under `annotations` in the "
            "data set's YAML nor label files beside the images"
        )
    annotated = {annotation.class_id for annotation in split.annotations}
    return document, map_classes(spec, split.class_names, annotated=annotated)
