"""One row: a model in float or by a recipe, its accuracy, and that of resampled images."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import openvino as ov
from zoo_plan import Entry, Plan, located, recipe_of
from zoo_results import Arrays, Row

from detq import api
from detq.api.judging import agreement as agreement_of
from detq.config import DatasetConfig
from detq.data.calibration import readable_images
from detq.data.class_folders import load_labelled_split
from detq.data.dataset import Split, load_split, sample_images
from detq.errors import DataError
from detq.evaluation.classes import map_classes
from detq.evaluation.evaluator import Judged, Run, Truth, run_detector
from detq.evaluation.resampling import (
    ImageMatches,
    Weights,
    average_precisions,
    draw,
    mean_over_classes,
)
from detq.evaluation.top_k import run_classifier, top_percent
from detq.progress import Steps, silent
from detq.quant.network import Image, Network
from detq.quant.pipeline import Pass, Step, run_passes
from detq.quant.recipes import passes_of
from detq.runtime.classifier import Classifier
from detq.runtime.detector import Detector
from detq.runtime.options import RuntimeOptions
from detq.tasks import strategy_of

RESAMPLES = 1000


@dataclass(frozen=True)
class Scored:
    """A row's figures, its arrays, and what the network found in each image."""

    row: Row
    arrays: Arrays
    seen: Any


class Subject:
    """A model of the zoo, opened, with its data."""

    def __init__(self, entry: Entry, plan: Plan, root: Path, unpacked: Path) -> None:
        self.entry, self.plan = entry, plan
        self.data = _dataset(located(entry.data, root), unpacked)
        graph = api.load(located(entry.model, root), imgsz=entry.imgsz, layout=entry.layout)
        named = strategy_of(graph.spec).named(graph.spec, self.data)
        self.graph = replace(graph, spec=named)
        self.strategy = strategy_of(named)
        self._float_seen: Any = None

    @property
    def splits(self) -> bool:
        """True if it has layers that can be split."""
        return bool(self.graph.spec.reparameterized)

    def score(
        self, graph: api.DetectorGraph, options: RuntimeOptions | None = None, *, is_float: bool
    ) -> Scored:
        """Accuracy on the test split; of an INT8 graph also how far it finds there what float
        finds.
        """
        measure = _detector if self.strategy.FINDS_BOXES else _classifier
        scored = measure(graph, self.data, self.entry.split, options or RuntimeOptions())
        if is_float:
            self._float_seen = self._float_seen or scored.seen
            return scored
        if self._float_seen is None:  # the float rows are of an earlier run
            self._float_seen = measure(
                self.graph, self.data, self.entry.split, RuntimeOptions()
            ).seen
        count = self.graph.spec.class_count
        agreement = self.strategy.agreement(self._float_seen, scored.seen, class_count=count)
        return replace(scored, row={**scored.row, "agreement": agreement})


class Quantizer:
    """One model by many recipes with the same images; passes that they begin with run once."""

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject, self._seed = subject, seed
        self._images = subject.plan.images_of(subject.entry)
        split = load_split(subject.data, subject.entry.calibrate, with_annotations=False)
        paths = sample_images(split, self._images, seed)
        more = sample_images(split, self._images + subject.plan.held_back, seed)
        preprocess = subject.strategy.preprocess(subject.graph.spec)
        self._calibration = readable_images(paths, preprocess)
        others = sorted(set(more) - set(paths))
        if not others:
            raise DataError(
                f"split {split.name}: has {len(paths)} images, none beside those to calibrate on; "
                "take fewer with `images`"
            )
        self._held_back = readable_images(others, preprocess).paths
        self._known: dict[tuple[Pass, ...], tuple[Network, tuple[Step, ...], float]]
        self._known = {(): (Network.of(subject.graph), (), 0.0)}

    def quantize(self, name: str, path: Path | None) -> tuple[Row, Arrays]:
        """Measure what a recipe makes, which is kept at ``path``."""
        return self.measure(self.passes(name), path)

    def passes(self, name: str) -> tuple[Pass, ...]:
        """What a recipe or variant consists of."""
        return passes_of(recipe_of(name, seed=self._seed, images=self._images))

    def measure(self, passes: tuple[Pass, ...], path: Path | None = None) -> tuple[Row, Arrays]:
        """The same of passes that no recipe may have."""
        subject = self.subject
        network, steps, cpu_s = self.behind(passes)
        int8 = subject.strategy.compiled(network.graph)
        if path is not None:
            ov.save_model(network.model, path, compress_to_fp16=False)
        scored = subject.score(network.graph, is_float=False)
        row = {
            **scored.row,
            "seconds": sum(step.seconds for step in steps),
            "cpu_seconds": cpu_s,
            "passes": {step.name: [round(step.seconds, 2), step.did] for step in steps},
            **self._held_back_of(int8),
            "int8_share": int8.int8_share,
            "split": len(network.splits),
        }
        return row, scored.arrays

    def behind(self, passes: tuple[Pass, ...]) -> tuple[Network, tuple[Step, ...], float]:
        """The network behind some passes, what each did, and CPU seconds."""
        start = max(n for n in range(len(passes) + 1) if passes[:n] in self._known)
        network, steps, cpu_s = self._known[passes[:start]]
        ends = [n for n in range(start + 1, len(passes)) if not passes[n - 1].keeps_float]
        for begin, end in pairwise([start, *ends, len(passes)]):  # what shares a run stays together
            before_s = time.process_time()
            network, more = run_passes(network, passes[begin:end], self._read)
            cpu_s += time.process_time() - before_s
            steps = (*steps, *more)
            self._known[passes[:end]] = network, steps, cpu_s
        return network, steps, cpu_s

    def held_back(self, count: int) -> list[Image]:
        """So many images, as the network reads them, that calibration does not see."""
        preprocess = self.subject.strategy.preprocess(self.subject.graph.spec)
        return list(readable_images(self._held_back, preprocess).inputs(count))

    def in_float(self, options: RuntimeOptions) -> tuple[Row, Arrays]:
        """Measure the float network in another precision, as an INT8 one is measured."""
        graph, strategy = self.subject.graph, self.subject.strategy
        scored = self.subject.score(graph, options, is_float=False)
        network = strategy.compiled(graph, options=options)
        return {**scored.row, **self._held_back_of(network)}, scored.arrays

    def _held_back_of(self, network: Any) -> Row:
        found = agreement_of(self.subject.graph, network, self._held_back, silent)
        return {"held_back": found, "held_back_images": len(self._held_back)}

    def _read(self, purpose: str, count: int | None) -> Iterator[Image]:
        return self._calibration.inputs(count)


class _ImageByImage:
    """Judges a run one image at a time, and keeps what it saw."""

    matches: tuple[Any, ...] = ()
    run: Run

    def __call__(
        self, detector: Detector, split: Split, truth: Truth, *, progress: Steps | None = None
    ) -> Judged:
        self.run = run_detector(detector, split.paths)
        parts = split.without(self.run.damaged).parts(1)
        self.matches = tuple(
            truth.match(part, Run((found,), 0.0))
            for part, found in zip(parts, self.run.detections, strict=True)
        )
        return Judged(self.matches, self.run.seconds, self.run.damaged)


def _draw(data: DatasetConfig, split: str, images: int) -> Weights:
    """The same resamples for all models that one split judges; independent ones for others."""
    words = f"{data.path.name} {data.class_names} {split}".encode()
    return draw(images, resamples=RESAMPLES, seed=crc32(words))


def _detector(
    graph: api.DetectorGraph, data: DatasetConfig, split: str, options: RuntimeOptions
) -> Scored:
    runner = _ImageByImage()
    result = strategy_of(graph.spec).evaluate(graph, data, split, options=options, runner=runner)
    matches = ImageMatches.of(runner.matches)
    weights = _draw(data, split, len(matches.objects))
    classes = average_precisions(matches, weights)
    per_class = {name: (one.map, one.objects) for name, one in result.per_class.items()}
    arrays = {
        "rows": matches.rows,
        "objects": matches.objects,
        "categories": matches.categories,
        "resampled": mean_over_classes(classes),
        "resampled_classes": classes.astype(np.float32),
    }
    return Scored(_row(result.scores, "mAP", per_class, len(matches.objects)), arrays, runner.run)


def _classifier(
    graph: api.DetectorGraph, data: DatasetConfig, split: str, options: RuntimeOptions
) -> Scored:
    """The figure of a class is the share of its images that are recognised."""
    images = load_labelled_split(data, split)
    run = run_classifier(Classifier(graph, options=options), images.paths)
    images = images.without(run.damaged)
    classes = map_classes(graph.spec, images.class_names, annotated=set(images.labels))
    model_class = {index: ours for ours, index in enumerate(classes) if index is not None}
    labels = np.array([model_class[label] for label in images.labels])
    scores = {f"top{n}": top_percent(run.rankings, labels.tolist(), best=n) for n in (1, 5)}
    right = np.array([ranking.class_ids[0] for ranking in run.rankings]) == labels
    ours = sorted(set(labels.tolist()))
    weights = _draw(data, split, len(labels))
    counts = np.stack([weights[:, labels == one].sum(axis=1) for one in ours], axis=1)
    found = np.stack([weights[:, (labels == one) & right].sum(axis=1) for one in ours], axis=1)
    per_class = {
        graph.spec.class_names[one]: (
            100 * float(right[labels == one].mean()),
            int((labels == one).sum()),
        )
        for one in ours
    }
    arrays = {
        "right": right,
        "resampled": 100 * found.sum(axis=1) / len(labels),
        "resampled_classes": np.where(counts > 0, 100 * found / np.maximum(counts, 1), np.nan),
    }
    return Scored(_row(scores, "top-1", per_class, len(labels)), arrays, run)


def _row(scores: Any, measure: str, per_class: dict[str, Any], images: int) -> Row:
    score = next(iter(scores.values()))
    if score is None:
        raise DataError("the test split has no object to find; take another with `split`")
    return {
        "measure": measure,
        "score": score,
        "scores": dict(scores),
        "classes": {name: list(figures) for name, figures in per_class.items()},
        "images": images,
    }


def _dataset(source: str, unpacked: Path) -> DatasetConfig:
    """What ``source`` names; a folder of archives, one per split, is unpacked once."""
    archives = sorted(Path(source).glob("*.tar")) if Path(source).is_dir() else []
    if not archives:
        return api.load_dataset(source)
    folder = unpacked / Path(source).name
    scratch = folder.with_suffix(".part")
    for archive in archives:
        if not (folder / archive.stem).is_dir():
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
            folder.mkdir(parents=True, exist_ok=True)
            (scratch / archive.stem).rename(folder / archive.stem)
    return api.load_dataset(folder)
