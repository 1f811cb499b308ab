"""Run a detector over a split and score what it finds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol as TypingProtocol

from detq.data.dataset import Split
from detq.data.images import image_size_hw, read_sound_images
from detq.errors import DataError
from detq.evaluation.canonical import (
    content_keys,
    named,
    numbered_by_place,
    renumber_categories,
)
from detq.evaluation.classes import map_classes
from detq.evaluation.coco_map import CocoScores, coco_detections, score_matches
from detq.evaluation.matches import Matches, match
from detq.evaluation.protocol import PROTOCOLS, Protocol, default_protocol
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Steps
from detq.records import Detections, EvalResult, ModelSpec, SizeHW
from detq.runtime.detector import Detector
from detq.runtime.execution import constant_bytes
from detq.runtime.options import RuntimeOptions
from detq.runtime.pipeline import detect_stream
from detq.runtime.postprocess import EVALUATION, PostprocessOptions

SCORES = (
    *("map", "map50", "map75", "map_small", "map_medium", "map_large"),
    *("mar1", "mar10", "mar100", "mar_small", "mar_medium", "mar_large"),
)
"""What of :class:`CocoScores` is kept of a model; the first counts."""
PART = 500
"""So many images are judged at once: their detections are all that is in memory."""


@dataclass(frozen=True)
class Run:
    """What a detector found in each image, and the wall time of decoding, inference and NMS.

    ``damaged`` are files that could not be decoded; there are no detections of them.
    """

    detections: tuple[Detections, ...]
    seconds: float
    damaged: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Judged:
    """How what was found in some images compares with their ground truth; else as :class:`Run`."""

    matches: tuple[Matches, ...]
    seconds: float
    damaged: tuple[Path, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[Judged]) -> Judged:
        """All parts together, one after another."""
        return cls(
            tuple(matches for part in parts for matches in part.matches),
            sum(part.seconds for part in parts),
            tuple(path for part in parts for path in part.damaged),
        )


class Runner(TypingProtocol):
    """Takes the images of a split through a detector and judges them, as :func:`judge` does."""

    def __call__(
        self, detector: Detector, split: Split, truth: Truth, *, progress: Steps | None = None
    ) -> Judged:
        """In parts, in any order."""


def evaluation_detector(
    graph: DetectorGraph,
    *,
    postprocess: PostprocessOptions = EVALUATION,
    options: RuntimeOptions | None = None,
) -> Detector:
    """With the letterbox of the figures of its family, and every candidate that evaluation counts,
    or others.
    """
    preprocess = default_protocol(graph.spec).preprocess(graph.spec)
    return Detector(graph, preprocess=preprocess, postprocess=postprocess, options=options)


def run_detector(
    detector: Detector, paths: Sequence[Path], *, progress: Steps | None = None
) -> Run:
    """Detections in each image file, in order. Files are decoded while others are inferred.

    Damaged files are left out. Raises DataError for what is no image file at all,
    RuntimeTimeoutError if inference hangs.
    """
    found: list[Detections] = []
    damaged: list[Path] = []
    started_s = time.perf_counter()
    for frame in detect_stream(detector, read_sound_images(paths, damaged)):
        found.append(frame.detections)
        if progress is not None:
            progress(len(found), len(paths))
    return Run(tuple(found), time.perf_counter() - started_s, tuple(damaged))


def judge(
    detector: Detector, split: Split, truth: Truth, *, progress: Steps | None = None
) -> Judged:
    """Run a detector over a split, and keep of its detections how they match, no more.

    Raises DataError as :func:`run_detector` does.
    """
    parts: list[Judged] = []
    done = 0
    for part in split.parts(PART):
        tell = None if progress is None else partial(_tell, progress, done, len(split.images))
        run = run_detector(detector, part.paths, progress=tell)
        done += len(part.images)
        matches = () if len(run.damaged) == len(part.images) else (truth.match(part, run),)
        parts.append(Judged(matches, run.seconds, run.damaged))
    return Judged.of(parts)


def _tell(progress: Steps, before: int, images: int, done: int, _: int) -> None:
    progress(before + done, images)


def _input_hw(detector: Detector, path: Path) -> SizeHW:
    """The size that the network has for an image; its own if that cannot be told."""
    try:
        return detector.trimmed(image_size_hw(path)).size_hw
    except DataError:
        return detector.spec.size_hw


@dataclass(frozen=True)
class Truth:
    """How the objects of a split are counted for a model.

    ``numbers`` are the categories of the data set's classes: they are numbered by the model's
    classes, whatever numbers the data set has. ``category_ids`` are those of the model's classes,
    None for one that the data set does not know.
    """

    names: Mapping[int, str]
    numbers: Mapping[int, int]
    category_ids: tuple[int | None, ...]
    renumbers: bool

    @classmethod
    def of(cls, spec: ModelSpec, split: Split, protocol: Protocol) -> Truth:
        """Raises DataError if the split has no ground truth, or classes unknown to the model."""
        if split.annotations is None:
            raise DataError(
                f"split {split.name}: no ground truth: neither annotations (COCO JSON, Pascal VOC) "
                "nor label files beside the images whose classes have names; see docs/data.md"
            )
        classes = map_classes(spec, split.class_names, annotated=split.annotations.class_ids)
        numbers = {index: number for number, index in enumerate(classes) if index is not None}
        for index in range(len(split.class_names)):
            numbers.setdefault(index, spec.class_count + index)
        return cls(
            named(split.class_names, numbers),
            numbers,
            tuple(None if index is None else number for number, index in enumerate(classes)),
            protocol.renumbers,
        )

    def match(self, part: Split, run: Run) -> Matches:
        """How a run over some of the images matches their objects."""
        judged = part.without(run.damaged)
        renumbered = renumber_categories(judged.document(renumbered=self.renumbers), self.numbers)
        document = numbered_by_place(renumbered, judged.images)
        places = [image["id"] for image in document["images"]]
        entries = coco_detections(places, run.detections, category_ids=self.category_ids)
        return match(document, entries, keys=content_keys(document, run.detections))

    def score(self, matches: Sequence[Matches]) -> CocoScores:
        """COCO scores of all parts.

        They do not depend on how images and classes are called and numbered, nor on the order of
        anything: pycocotools breaks ties between equal scores by the order of images, which is
        that of their contents here (:mod:`detq.evaluation.canonical`).
        """
        return score_matches(matches, self.names)


def score_run(
    detector: Detector, split: Split, run: Run, *, protocol: Protocol = PROTOCOLS["yolov6"]
) -> CocoScores:
    """COCO scores of a run over a split's images. Raises DataError as :meth:`Truth.of` does."""
    truth = Truth.of(detector.spec, split, protocol)
    return truth.score([truth.match(split, run)])


def evaluate(
    detector: Detector,
    split: Split,
    *,
    protocol: Protocol = PROTOCOLS["yolov6"],
    runner: Runner = judge,
    progress: Steps | None = None,
) -> EvalResult:
    """COCO mAP of a detector on a split; ``protocol`` says how the ground truth is counted.

    ``runner`` is what takes the images through the detector, those of one shape one after another,
    for a network that is compiled for each. Raises DataError as :func:`run_detector` and
    :meth:`Truth.of` do.
    """
    truth = Truth.of(detector.spec, split, protocol)
    if detector.is_rect:
        by_shape = sorted(split.images, key=lambda image: _input_hw(detector, image.path))
        split = replace(split, images=tuple(by_shape))
    judged = runner(detector, split, truth, progress=progress)
    left = split.without(judged.damaged)
    scores = truth.score(judged.matches)
    return EvalResult(
        model=detector.spec.name,
        scores={key: getattr(scores, key) for key in SCORES},
        images=len(left.images),
        seconds=judged.seconds,
        precision=detector.executed_precision,
        size_mb=constant_bytes(detector.graph.model) / 1e6,
        data=left.counts(),
        per_class=scores.per_class,
        confusion=scores.confusion,
    )
