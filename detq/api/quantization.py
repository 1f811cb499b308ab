"""Quantizing a model, and holding what that may cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detq.api.running import (
    default_preprocess,
    default_preset,
    evaluate,
    evaluate_classifier,
    evaluation_detector,
    has_ground_truth,
)
from detq.api.sources import (
    DataSource,
    ImageSize,
    ModelSource,
    RecipeSource,
    load_recipe,
    open_dataset,
    open_graph,
)
from detq.artifact import write_artifact
from detq.config import DatasetConfig
from detq.data.calibration import CalibrationImages, readable_images
from detq.data.dataset import load_split, sample_images
from detq.data.fingerprint import content_overlap, fingerprint
from detq.downloads.cache import cache_folder
from detq.errors import CalibrationError, DataError, DownloadError, one_line
from detq.evaluation.agreement import MIN_SCORE, agreement
from detq.evaluation.classes import with_names_of
from detq.evaluation.evaluator import run_detector
from detq.evaluation.top_k import run_classifier, same_top1
from detq.graph.detector_graph import DetectorGraph
from detq.graph.digest import digest
from detq.progress import Progress, silent
from detq.quant.guard import GuardMemory, GuardResult, hold_drop
from detq.quant.noise import tensor_noise
from detq.quant.observation_store import ObservationStore
from detq.quant.ptq import QuantizedDetector, quantize_graph
from detq.report.disagreement import (
    ChangedClass,
    Disagreement,
    changed_classes,
    worst_disagreements,
)
from detq.report.figures import ObservedTensor
from detq.report.page import Evidence, render_report
from detq.runtime.classifier import Classifier
from detq.runtime.detector import CompiledGraph, Detector
from detq.runtime.postprocess import PREDICTION

DEFAULT_RECIPE = "measured"
AGREEMENT_IMAGES = 32
NOISE_IMAGES = 4
LEAST_HELD_BACK = 16
"""With fewer images beside those to calibrate on, agreement is measured on these."""
LEAST_AGREEMENT = 20.0
"""Below this mAP against the float model, the INT8 model is broken and not handed out."""


@dataclass(frozen=True)
class QuantizationResult:
    """An INT8 detector with everything that is known about how it came to be.

    ``agreement`` is the mAP of its detections against the float model's on ``judges``,
    other images of the calibration split, in percent, None if the float model found nothing there;
    for a classifier the share of these images that both take for the same class.
    ``guard`` says what :func:`hold_accuracy` gave back to float.
    ``held_back`` is False if the split has too few others, and calibration images had to do.
    """

    float_graph: DetectorGraph
    quantized: QuantizedDetector
    calibration: CalibrationImages
    calibration_fingerprint: str
    agreement: float | None
    judges: tuple[Path, ...]
    held_back: bool
    int8_share: float
    guard: GuardResult | None = None

    @property
    def graph(self) -> DetectorGraph:
        """The INT8 detector graph."""
        return self.quantized.graph

    def save(self, directory: str | Path, *, measured: dict[str, Any] | None = None) -> None:
        """Write the exported directory (:mod:`detq.artifact`); ``measured`` joins its metadata."""
        details = self._details(measured)
        report = render_report(self.float_graph, details, self._evidence())
        write_artifact(self.graph, Path(directory), details=details, report=report)

    def _details(self, measured: dict[str, Any] | None) -> dict[str, Any]:
        details: dict[str, Any] = {
            "recipe": self.quantized.recipe.model_dump(mode="json"),
            "calibration": {
                "images": len(self.calibration),
                "skipped": [one_line(path.name) for path in self.calibration.skipped],
                "fingerprint": self.calibration_fingerprint,
            },
            "split_layers": list(self.quantized.split_layers),
            "biases_corrected": self.quantized.biases_corrected,
            "activations": [
                {**asdict(decision), "low": list(decision.low), "high": list(decision.high)}
                for decision in self.quantized.decisions
            ],
            "split_choices": [asdict(choice) for choice in self.quantized.split_choices],
            "search": self._search(),
            "guard": self._guard(),
            "int8_share_of_convolution_macs": round(self.int8_share, 4),
            "agreement_with_float": self.agreement,
            "agreement_images": len(self.judges),
            "agreement_images_held_back": self.held_back,
        }
        return {**details, "measured": measured} if measured else details

    def _evidence(self) -> Evidence:
        """Where INT8 departs from float: along the network, in its tensors, on images."""
        tensors = [
            ObservedTensor(
                name=decision.name,
                part=decision.part,
                method=decision.method,
                statistics=self.quantized.statistics[decision.name][0],
                low=decision.low[0] if decision.low else None,
                high=decision.high[0] if decision.high else None,
            )
            for decision in self.quantized.decisions
            if len(self.quantized.statistics.get(decision.name, ())) == 1
        ]
        return Evidence(
            noise=tensor_noise(self.quantized, self.calibration.inputs(NOISE_IMAGES)),
            tensors=tensors,
            disagreements=self._disagreements(),
            judged=len(self.judges),
        )

    def _disagreements(self) -> Sequence[Disagreement] | Sequence[ChangedClass]:
        """The images that both models see most differently."""
        graphs, names = (self.float_graph, self.graph), self.graph.spec.class_names
        if self.graph.spec.task == "classify":
            runs = [run_classifier(Classifier(graph), self.judges) for graph in graphs]
            return changed_classes(self.judges, runs[0].rankings, runs[1].rankings, names)
        exact, rounded = (
            run_detector(evaluation_detector(graph, postprocess=PREDICTION), self.judges)
            for graph in graphs
        )
        return worst_disagreements(self.judges, exact.detections, rounded.detections, names)

    def _search(self) -> dict[str, Any] | None:
        search = self.quantized.search
        if search is None:
            return None
        return {
            "best_rule": search.start,
            "output_error_of_best_rule": search.start_error,
            "output_error": search.error,
            "in_float": list(search.in_float),
        }

    def _guard(self) -> dict[str, Any] | None:
        if self.guard is None:
            return None
        return {
            "returned_to_float": list(self.guard.returned),
            "drops": dict(sorted(self.guard.drops.items())),
            "share_of_macs_returned": round(self.guard.mac_share, 4),
        }


def quantize(
    model: ModelSource,
    *,
    data: DataSource,
    recipe: RecipeSource = DEFAULT_RECIPE,
    imgsz: ImageSize | None = None,
    calibration_images: int | None = None,
    split: str = "train",
    progress: Progress | None = None,
) -> QuantizationResult:
    """Quantize a float detector with images of the data set's ``split``; labels are not read.

    ``calibration_images`` overrides the recipe's number. Damaged images are skipped and counted. A
    model that names no classes takes the data set's names, if there are as many. Raises a DetqError
    for bad input, CalibrationError if the result disagrees with the float model.
    """
    dataset = open_dataset(data)
    graph = _named(open_graph(model, imgsz), dataset)
    chosen = load_recipe(recipe)
    if calibration_images is not None:
        chosen = chosen.model_copy(update={"calibration_images": calibration_images})
    images_of = load_split(dataset, split, with_annotations=False)
    report = progress or silent
    count = chosen.calibration_images
    paths = sample_images(images_of, count, chosen.seed)
    more = sample_images(images_of, count + AGREEMENT_IMAGES, chosen.seed)
    kept = sorted(set(more) - set(paths))
    calibration = readable_images(
        paths, default_preprocess(graph), progress=partial(report, "reading images")
    )
    held_back = len(kept) >= LEAST_HELD_BACK
    judges = _readable(kept, graph) if held_back else calibration.paths[:AGREEMENT_IMAGES]
    seen = fingerprint(calibration.paths)
    quantized = quantize_graph(
        graph,
        chosen,
        lambda stage, count: _reported(calibration, stage, count, report),
        report,
        _observation_store(f"{seen} {calibration.preprocess}"),
    )
    int8 = _judge(quantized.graph)
    return QuantizationResult(
        float_graph=graph,
        quantized=quantized,
        calibration=calibration,
        calibration_fingerprint=seen,
        agreement=_checked_agreement(_judge(graph), int8, judges, report),
        judges=judges,
        held_back=held_back,
        int8_share=int8.int8_share,
    )


def _observation_store(images: str) -> ObservationStore | None:
    """None for a user without a home directory: nothing is kept then."""
    try:
        return ObservationStore(cache_folder() / "observations", images)
    except DownloadError:
        return None


def hold_accuracy(
    result: QuantizationResult,
    *,
    data: DataSource,
    max_drop: float,
    split: str = "val",
    preset: str | None = None,
    limit_s: float = 3600.0,
    memory: str | Path | None = None,
    progress: Progress | None = None,
) -> QuantizationResult:
    """Give layers back to float, the most useful first, until INT8 loses at most ``max_drop``.

    The drop is float mAP (a classifier's top-1) minus INT8 mAP on ``split``, in percent; for a data
    set without ground truth there, 100 minus the agreement. ``memory`` is a file that lets a search
    cut off by ``limit_s`` seconds (or by anything else) go on. Raises AccuracyError if the drop
    cannot be held.
    """
    report, float_graph = progress or silent, result.float_graph
    chosen = open_dataset(data)
    task = float_graph.spec.task
    preset = preset or default_preset(float_graph)
    labelled = getattr(chosen, split, None) is not None and has_ground_truth(
        chosen, split, task=task
    )

    def measure(graph: DetectorGraph) -> float:
        if labelled and task == "classify":
            return evaluate_classifier(graph, data=chosen, split=split, progress=report).top1
        if labelled:
            found = evaluate(graph, data=chosen, split=split, preset=preset, progress=report)
            return found.map or 0.0
        found_alike = _agreement(_judge(float_graph), _judge(graph), result.judges, report)
        return 0.0 if found_alike is None else found_alike

    exact = measure(float_graph) if labelled else 100.0
    recipe = result.quantized.recipe.model_dump_json()
    key = f"{recipe} {result.calibration_fingerprint} {split} {preset} {digest(float_graph.model)}"
    guard = hold_drop(
        result.quantized,
        lambda stage, count: _reported(result.calibration, stage, count, report),
        lambda graph: exact - measure(graph),
        max_drop=max_drop,
        limit_s=limit_s,
        memory=GuardMemory(None if memory is None else Path(memory), key),
        progress=report,
    )
    int8 = _judge(guard.quantized.graph)
    return replace(
        result,
        quantized=guard.quantized,
        agreement=_agreement(_judge(float_graph), int8, result.judges, report),
        int8_share=int8.int8_share,
        guard=guard,
    )


def calibration_overlap(result: QuantizationResult, data: DataSource, split: str) -> int:
    """How many calibration images, by content, are also in ``split``: there the mAP flatters."""
    images = load_split(open_dataset(data), split, with_annotations=False)
    return len(content_overlap(result.calibration.paths, images.paths))


def _named(graph: DetectorGraph, dataset: DatasetConfig) -> DetectorGraph:
    """The graph with the data set's class names in place of placeholders."""
    if dataset.names_are_folders and graph.spec.task == "detect":
        return graph
    return replace(graph, spec=with_names_of(graph.spec, dataset.class_names))


def _readable(paths: Sequence[Path], graph: DetectorGraph) -> tuple[Path, ...]:
    return readable_images(paths, default_preprocess(graph)).paths


def _judge(graph: DetectorGraph) -> Detector | Classifier:
    """The graph at work, as evaluation has it."""
    return Classifier(graph) if graph.spec.task == "classify" else evaluation_detector(graph)


def _checked_agreement(
    reference: Detector | Classifier,
    candidate: Detector | Classifier,
    paths: Sequence[Path],
    report: Progress,
) -> float | None:
    """As :func:`_agreement`.

    Raises CalibrationError if a float model that is certain of what it sees is contradicted.
    """
    percent = _agreement(reference, candidate, paths, report)
    if percent is None or percent >= LEAST_AGREEMENT:
        return percent
    if _is_certain(reference, paths):
        raise CalibrationError(
            f"{reference.spec.name}: INT8 agrees with float to {percent:.1f}% only: it is broken; "
            "try another --recipe, or calibration images closer to the real ones"
        )
    return percent


def _is_certain(reference: CompiledGraph, paths: Sequence[Path]) -> bool:
    """False for a network that sees objects everywhere, or no class before the others."""
    if isinstance(reference, Classifier):
        rankings = run_classifier(reference, paths).rankings
        return bool(np.median([ranking.scores[0] for ranking in rankings]) >= MIN_SCORE)
    if not isinstance(reference, Detector):
        return False
    expected = run_detector(reference, paths)
    counts = [int((found.scores >= MIN_SCORE).sum()) for found in expected.detections]
    return bool(np.median(counts) < reference.postprocess.max_detections)


def _agreement(
    reference: Detector | Classifier,
    candidate: Detector | Classifier,
    paths: Sequence[Path],
    report: Progress,
) -> float | None:
    """mAP of the candidate's detections against the reference's, None if that found nothing; the
    share of images that two classifiers take for the same.
    """
    if isinstance(reference, Classifier) and isinstance(candidate, Classifier):
        wanted = run_classifier(reference, paths, progress=partial(report, "running float"))
        found = run_classifier(candidate, paths, progress=partial(report, "running INT8"))
        return same_top1(wanted.rankings, found.rankings)
    if not isinstance(reference, Detector) or not isinstance(candidate, Detector):
        raise DataError("a detector and a classifier cannot agree")
    expected = run_detector(reference, paths, progress=partial(report, "running float"))
    actual = run_detector(candidate, paths, progress=partial(report, "running INT8"))
    try:
        return agreement(
            expected.detections, actual.detections, class_count=reference.spec.class_count
        )
    except DataError:
        return None


def _reported(
    images: CalibrationImages, stage: str, count: int | None, report: Progress
) -> Iterator[npt.NDArray[np.float32]]:
    total = min(len(images), count or len(images))
    report(stage, 0, total)
    for done, image in enumerate(images.inputs(count), start=1):
        report(stage, done, total)
        yield image
