"""How good a classifier is: top-1 and top-5 on labelled images, agreement with another on any."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detq.data.class_folders import LabelledSplit
from detq.data.images import read_sound_images
from detq.errors import DataError
from detq.evaluation.classes import map_classes
from detq.progress import Steps
from detq.records import EvalResult, Ranking
from detq.runtime.classifier import Classifier, classify_stream
from detq.runtime.execution import constant_bytes


@dataclass(frozen=True)
class ClassifierRun:
    """What a classifier takes each image for, and the wall time of decoding and inference.

    ``damaged`` are files that could not be decoded; there is no ranking for them.
    """

    rankings: tuple[Ranking, ...]
    seconds: float
    damaged: tuple[Path, ...] = ()


def run_classifier(
    classifier: Classifier, paths: Sequence[Path], *, progress: Steps | None = None
) -> ClassifierRun:
    """The best classes of each image file, in order. Files are decoded while others are inferred.

    Damaged files are left out. Raises DataError for what is no image file at all,
    RuntimeTimeoutError.
    """
    found: list[Ranking] = []
    damaged: list[Path] = []
    started_s = time.perf_counter()
    for ranking in classify_stream(classifier, read_sound_images(paths, damaged)):
        found.append(ranking)
        if progress is not None:
            progress(len(found), len(paths))
    return ClassifierRun(tuple(found), time.perf_counter() - started_s, tuple(damaged))


def top_percent(rankings: Sequence[Ranking], labels: Sequence[int], *, best: int) -> float:
    """Share of images, in percent, whose class is among the ``best`` first.

    ``labels`` are the model's classes. Raises DataError if the numbers of images differ or are 0.
    """
    if len(rankings) != len(labels) or not labels:
        raise DataError(f"{len(rankings)} rankings, but classes of {len(labels)} images")
    pairs = zip(rankings, labels, strict=True)
    right = sum(label in ranking.class_ids[:best] for ranking, label in pairs)
    return 100 * right / len(labels)


def same_top1(reference: Sequence[Ranking], candidate: Sequence[Ranking]) -> float:
    """Share of images, in percent, that both take for the same class."""
    return top_percent(candidate, [int(ranking.class_ids[0]) for ranking in reference], best=1)


def evaluate_classifier(
    classifier: Classifier, split: LabelledSplit, *, progress: Steps | None = None
) -> EvalResult:
    """Top-1 and top-5 of a classifier on a split.

    Raises DataError as :func:`run_classifier` does, and if the model does not know the classes.
    """
    spec = classifier.spec
    classes = map_classes(spec, split.class_names, annotated=set(split.labels))
    model_class = {index: ours for ours, index in enumerate(classes) if index is not None}
    run = run_classifier(classifier, split.paths, progress=progress)
    judged = split.without(run.damaged)
    labels = [model_class[label] for label in judged.labels]
    return EvalResult(
        model=spec.name,
        scores={f"top{best}": top_percent(run.rankings, labels, best=best) for best in (1, 5)},
        images=len(judged.paths),
        seconds=run.seconds,
        precision=classifier.executed_precision,
        size_mb=constant_bytes(classifier.graph.model) / 1e6,
        data=replace(
            split.left_out,
            images=len(judged.paths),
            damaged_images=len(run.damaged),
            damaged_files=tuple(path.name for path in run.damaged),
        ),
    )
