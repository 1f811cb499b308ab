"""Run a detector over a split and score what it finds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol as TypingProtocol

from detq.data.dataset import Split
from detq.data.images import image_size_hw, read_sound_images
from detq.errors import DataError
from detq.evaluation.canonical import ordered_by_content, renumber_categories
from detq.evaluation.classes import map_classes
from detq.evaluation.coco_map import CocoScores, coco_detections, score_detections
from detq.evaluation.protocol import PROTOCOLS, Protocol, default_protocol
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Steps
from detq.records import Detections, EvalResult, ModelSpec, SizeHW
from detq.runtime.detector import Detector
from detq.runtime.execution import constant_bytes
from detq.runtime.pipeline import detect_stream
from detq.runtime.postprocess import EVALUATION, PostprocessOptions

SCORES = ("map", "map50", "map75", "map_small", "map_medium", "map_large")
"""What of :class:`CocoScores` is kept of a model; the first counts."""


@dataclass(frozen=True)
class Run:
    """What a detector found in each image, and the wall time of decoding, inference and NMS.

    ``damaged`` are files that could not be decoded; there are no detections of them.
    """

    detections: tuple[Detections, ...]
    seconds: float
    damaged: tuple[Path, ...] = ()


class Runner(TypingProtocol):
    """Takes image files through a detector, as :func:`run_detector` does."""

    def __call__(
        self, detector: Detector, paths: Sequence[Path], *, progress: Steps | None = None
    ) -> Run:
        """In order, without damaged files."""


def evaluation_detector(
    graph: DetectorGraph, *, postprocess: PostprocessOptions = EVALUATION
) -> Detector:
    """With the letterbox of the figures of its family, and every candidate that evaluation counts,
    or others.
    """
    preprocess = default_protocol(graph.spec).preprocess(graph.spec)
    return Detector(graph, preprocess=preprocess, postprocess=postprocess)


def run_detector(
    detector: Detector, paths: Sequence[Path], *, progress: Steps | None = None
) -> Run:
    """Detections in each image file, in order. Files are decoded while others are inferred.

    Damaged files are left out. Images of one shape come one after another, for a network that is
    compiled for each. Raises DataError for what is no image file at all, RuntimeTimeoutError if
    inference hangs.
    """
    found: list[Detections] = []
    damaged: list[Path] = []
    started_s = time.perf_counter()
    order = sorted(range(len(paths)), key=lambda index: _input_hw(detector, paths[index]))
    images = read_sound_images([paths[index] for index in order], damaged)
    for frame in detect_stream(detector, images):
        found.append(frame.detections)
        if progress is not None:
            progress(len(found), len(paths))
    lost = set(damaged)
    sound = [index for index in order if paths[index] not in lost]
    by_index = dict(zip(sound, found, strict=True))
    return Run(
        tuple(by_index[index] for index in sorted(by_index)),
        time.perf_counter() - started_s,
        tuple(damaged),
    )


def _input_hw(detector: Detector, path: Path) -> SizeHW:
    """The size that the network has for an image; its own if that cannot be told."""
    if not detector.is_rect:
        return detector.spec.size_hw
    try:
        return detector.trimmed(image_size_hw(path)).size_hw
    except DataError:
        return detector.spec.size_hw


def score_run(
    detector: Detector, split: Split, run: Run, *, protocol: Protocol = PROTOCOLS["yolov6"]
) -> CocoScores:
    """COCO scores of a run over a split's images.

    They do not depend on how images and classes are called and numbered, nor on the order of
    anything: pycocotools breaks ties between equal scores by the order of images, which is
    that of their contents here (:mod:`detq.evaluation.canonical`). Raises DataError if the split
    has no ground truth, or classes that the model does not know.
    """
    judged = split.without(run.damaged)
    truth = _truth(detector.spec, judged, protocol)
    document, image_ids = ordered_by_content(truth.document, judged.images, run.detections)
    entries = coco_detections(image_ids, run.detections, category_ids=truth.category_ids)
    return score_detections(document, entries)


def evaluate(
    detector: Detector,
    split: Split,
    *,
    protocol: Protocol = PROTOCOLS["yolov6"],
    runner: Runner = run_detector,
    progress: Steps | None = None,
) -> EvalResult:
    """COCO mAP of a detector on a split; ``protocol`` says how the ground truth is counted.

    ``runner`` is what takes the images through the detector. Raises DataError as
    :func:`run_detector` and :func:`score_run` do.
    """
    _truth(detector.spec, split, protocol)  # what is wrong with it is said before the long run
    run = runner(detector, split.paths, progress=progress)
    scores = score_run(detector, split, run, protocol=protocol)
    judged = split.without(run.damaged)
    return EvalResult(
        model=detector.spec.name,
        scores={key: getattr(scores, key) for key in SCORES},
        images=len(judged.images),
        seconds=run.seconds,
        precision=detector.executed_precision,
        size_mb=constant_bytes(detector.graph.model) / 1e6,
        data=judged.counts(),
    )


@dataclass(frozen=True)
class _Truth:
    """The COCO document of a split, and which of its categories each class of the model is."""

    document: dict[str, Any]
    category_ids: tuple[int | None, ...]


def _truth(spec: ModelSpec, split: Split, protocol: Protocol) -> _Truth:
    """Categories are numbered by the model's classes, whatever numbers the data set has."""
    document = split.ground_truth(renumbered=protocol.renumbers)
    if document is None or split.annotations is None:
        raise DataError(
            f"split {split.name}: no ground truth: neither annotations (COCO JSON, Pascal VOC) nor "
            "label files beside the images whose classes have names; see docs/data.md"
        )
    annotated = {annotation.class_id for annotation in split.annotations}
    classes = map_classes(spec, split.class_names, annotated=annotated)
    number_of = {index: number for number, index in enumerate(classes) if index is not None}
    for index in range(len(split.class_names)):
        number_of.setdefault(index, spec.class_count + index)
    return _Truth(
        renumber_categories(document, number_of),
        tuple(None if index is None else number for number, index in enumerate(classes)),
    )
