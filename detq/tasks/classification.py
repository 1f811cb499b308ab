"""Telling what an image shows: one class of many, judged by top-1."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detq.config import DatasetConfig
from detq.data.centre_crop import CROP_SHARE, CentreCrop
from detq.data.class_folders import has_class_folders, load_labelled_split
from detq.data.dataset import Split, load_split
from detq.data.images import ImageBGR, list_images, read_images
from detq.errors import ConfigError
from detq.evaluation.agreement import MIN_SCORE
from detq.evaluation.classes import map_classes, with_names_of
from detq.evaluation.evaluator import Runner
from detq.evaluation.top_k import (
    ClassifierRun,
    evaluate_classifier,
    run_classifier,
    same_top1,
)
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Progress, Steps
from detq.records import Classified, EvalResult, ModelSpec, Ranking
from detq.report.disagreement import ChangedClass, changed_classes
from detq.report.words import Metric, Words
from detq.runtime.classifier import Classifier, classify_stream
from detq.runtime.options import RuntimeOptions
from detq.tasks.strategy import Finder, Reader

METRICS: Sequence[Metric] = (("top-1", "top1"), ("top-5", "top5"))
COLUMNS = METRICS
WORDS = Words(
    metrics=METRICS,
    differences="The images that INT8 takes for something else, those first that float was surest "
    "of.",
    alike="class",
)
FINDS_BOXES = False
compiled = Classifier
run = run_classifier


def preprocess(spec: ModelSpec) -> CentreCrop:
    """The middle of the image."""
    return CentreCrop(spec.size_hw)


def preprocess_keys(spec: ModelSpec) -> dict[str, Any]:
    """What is resized, and how much of it is cut out."""
    return {"resize": "shorter side", "crop": CROP_SHARE}


def named(spec: ModelSpec, data: DatasetConfig) -> ModelSpec:
    """Folders are the classes."""
    return with_names_of(spec, data.class_names)


def agreement(
    reference: ClassifierRun, candidate: ClassifierRun, *, class_count: int
) -> float | None:
    """The share of images that both take for the same."""
    return same_top1(reference.rankings, candidate.rankings)


def is_certain(classifier: Classifier, seen: ClassifierRun) -> bool:
    """False if its best class is seldom much better than the others."""
    return bool(np.median([ranking.scores[0] for ranking in seen.rankings]) >= MIN_SCORE)


def differences(exact: DetectorGraph, rounded: DetectorGraph, images: Split) -> list[ChangedClass]:
    """Those whose best class is another one."""
    one, two = (
        run_classifier(Classifier(graph), images.paths).rankings for graph in (exact, rounded)
    )
    return changed_classes(images.paths, one, two, exact.spec.class_names)


def has_ground_truth(data: DatasetConfig, split: str) -> bool:
    """Its images lie in class folders."""
    load_split(data, split, with_annotations=False)
    return has_class_folders(data, split)


def check_classes(spec: ModelSpec, data: DatasetConfig, split: str) -> None:
    """Those that have images."""
    found = load_labelled_split(data, split)
    map_classes(spec, found.class_names, annotated=set(found.labels))


def evaluate(
    graph: DetectorGraph,
    data: DatasetConfig,
    split: str,
    *,
    preset: str | None = None,
    options: RuntimeOptions | None = None,
    rect: bool = False,
    runner: Runner | None = None,
    progress: Steps | None = None,
) -> EvalResult:
    """Top-1 and top-5 on a split whose images lie in one folder per class; no preset matters."""
    if runner is not None:
        raise ConfigError(f"{graph.spec.name}: classifiers are evaluated here; no --engine ray")
    if rect:
        raise ConfigError(f"{graph.spec.name}: classifiers see a square of every image; no --rect")
    return evaluate_classifier(
        Classifier(graph, options=options), load_labelled_split(data, split), progress=progress
    )


def doubt(
    graph: DetectorGraph,
    data: DatasetConfig,
    split: str,
    *,
    model: Path | None,
    read: Reader,
) -> str | None:
    """None: such a file has one layout alone."""
    return None


def finder(
    graph: DetectorGraph,
    *,
    confidence: float,
    iou: float,
    rect: bool | None,
    options: RuntimeOptions | None,
) -> Finder:
    """The best classes of every image, however small their scores are."""
    classifier = Classifier(graph, options=options)

    def find(images_bgr: Iterable[ImageBGR]) -> Generator[tuple[ImageBGR, Ranking]]:
        in_flight: deque[ImageBGR] = deque()

        def noted() -> Generator[ImageBGR]:
            for image in images_bgr:
                in_flight.append(image)
                yield image

        for ranking in classify_stream(classifier, noted()):
            yield in_flight.popleft(), ranking

    return find


def blind(graph: DetectorGraph, paths: Sequence[Path]) -> str | None:
    """None: some class is always the best."""
    return None


def classify_images(classifier: Classifier, source: Path, progress: Progress) -> list[Classified]:
    """The five best classes of an image, or of each image in a folder. Raises DataError."""
    paths, names = list_images(source), classifier.spec.class_names
    found: list[Classified] = []
    rankings = classify_stream(classifier, read_images(paths))
    for path, ranking in zip(paths, rankings, strict=True):
        found.append(Classified(str(path), ranking.named(names)))
        progress("classifying", len(found), len(paths))
    return found
