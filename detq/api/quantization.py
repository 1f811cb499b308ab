"""Quantizing a model, and holding what that may cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detq.api.running import (
    default_preprocess,
    default_preset,
    evaluate,
    evaluation_detector,
    has_ground_truth,
)
from detq.api.sources import (
    DataSource,
    ImageSize,
    ModelSource,
    Progress,
    RecipeSource,
    load_recipe,
    open_dataset,
    open_graph,
    silent,
)
from detq.artifact import write_artifact
from detq.data.calibration import CalibrationImages, readable_images
from detq.data.dataset import load_split, sample_images
from detq.data.fingerprint import content_overlap, fingerprint
from detq.errors import CalibrationError, DataError
from detq.evaluation.agreement import MIN_SCORE, agreement
from detq.evaluation.evaluator import run_detector
from detq.graph.detector_graph import DetectorGraph
from detq.quant.guard import GuardMemory, GuardResult, hold_drop
from detq.quant.noise import tensor_noise
from detq.quant.ptq import QuantizedDetector, quantize_graph
from detq.report.disagreement import worst_disagreements
from detq.report.figures import ObservedTensor
from detq.report.page import Evidence, render_report
from detq.runtime.detector import Detector
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
    other images of the calibration split, in percent, None if the float model found nothing there.
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
                "skipped": [path.name for path in self.calibration.skipped],
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
        detectors = [
            Detector(graph, preprocess=default_preprocess(graph), postprocess=PREDICTION)
            for graph in (self.float_graph, self.graph)
        ]
        exact, rounded = (run_detector(detector, self.judges) for detector in detectors)
        names = self.graph.spec.class_names
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
            disagreements=worst_disagreements(
                self.judges, exact.detections, rounded.detections, names
            ),
            judged=len(self.judges),
        )

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

    ``calibration_images`` overrides the recipe's number. Damaged images are skipped and counted.
    Raises a DetqError for bad input, CalibrationError if the result disagrees with the float model.
    """
    graph = open_graph(model, imgsz)
    chosen = load_recipe(recipe)
    if calibration_images is not None:
        chosen = chosen.model_copy(update={"calibration_images": calibration_images})
    images_of = load_split(open_dataset(data), split, with_annotations=False)
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
    quantized = quantize_graph(
        graph, chosen, lambda stage, count: _reported(calibration, stage, count, report), report
    )
    int8 = evaluation_detector(quantized.graph)
    return QuantizationResult(
        float_graph=graph,
        quantized=quantized,
        calibration=calibration,
        calibration_fingerprint=fingerprint(calibration.paths),
        agreement=_checked_agreement(evaluation_detector(graph), int8, judges, report),
        judges=judges,
        held_back=held_back,
        int8_share=int8.int8_share,
    )


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

    The drop is float mAP minus INT8 mAP on ``split``, in percent; for a data set without ground
    truth there, 100 minus the agreement. ``memory`` is a file that lets a search cut off by
    ``limit_s`` seconds (or by anything else) go on. Raises AccuracyError if the drop cannot be
    held.
    """
    report, float_graph = progress or silent, result.float_graph
    chosen = open_dataset(data)
    preset = preset or default_preset(float_graph)
    labelled = getattr(chosen, split, None) is not None and has_ground_truth(chosen, split)

    def measure(graph: DetectorGraph) -> float:
        if labelled:
            found = evaluate(graph, data=chosen, split=split, preset=preset, progress=report)
            return found.map or 0.0
        found_alike = _agreement(
            evaluation_detector(float_graph), evaluation_detector(graph), result.judges, report
        )
        return 0.0 if found_alike is None else found_alike

    exact = measure(float_graph) if labelled else 100.0
    recipe = result.quantized.recipe.model_dump_json()
    key = f"{recipe} {result.calibration_fingerprint} {split} {preset} {_digest(float_graph)}"
    guard = hold_drop(
        result.quantized,
        lambda stage, count: _reported(result.calibration, stage, count, report),
        lambda graph: exact - measure(graph),
        max_drop=max_drop,
        limit_s=limit_s,
        memory=GuardMemory(None if memory is None else Path(memory), key),
        progress=report,
    )
    int8 = evaluation_detector(guard.quantized.graph)
    return replace(
        result,
        quantized=guard.quantized,
        agreement=_agreement(evaluation_detector(float_graph), int8, result.judges, report),
        int8_share=int8.int8_share,
        guard=guard,
    )


def calibration_overlap(result: QuantizationResult, data: DataSource, split: str) -> int:
    """How many calibration images, by content, are also in ``split``: there the mAP flatters."""
    images = load_split(open_dataset(data), split, with_annotations=False)
    return len(content_overlap(result.calibration.paths, images.paths))


def _readable(paths: Sequence[Path], graph: DetectorGraph) -> tuple[Path, ...]:
    return readable_images(paths, default_preprocess(graph)).paths


def _checked_agreement(
    reference: Detector, candidate: Detector, paths: Sequence[Path], report: Progress
) -> float | None:
    """mAP of the INT8 detections against the float ones; None if the float model found nothing.

    Raises CalibrationError if a float model that can tell objects from background is contradicted.
    """
    percent = _agreement(reference, candidate, paths, report)
    if percent is None or percent >= LEAST_AGREEMENT:
        return percent
    expected = run_detector(reference, paths)
    counts = [int((found.scores >= MIN_SCORE).sum()) for found in expected.detections]
    sees_objects_everywhere = np.median(counts) >= reference.postprocess.max_detections
    if not sees_objects_everywhere:
        raise CalibrationError(
            f"{reference.spec.name}: INT8 agrees with float to {percent:.1f}% only: it is broken; "
            "try another --recipe, or calibration images closer to the real ones"
        )
    return percent


def _agreement(
    reference: Detector, candidate: Detector, paths: Sequence[Path], report: Progress
) -> float | None:
    """mAP of the candidate's detections against the reference's; None if that found nothing."""
    expected = run_detector(reference, paths, progress=partial(report, "running float"))
    actual = run_detector(candidate, paths, progress=partial(report, "running INT8"))
    try:
        return agreement(
            expected.detections, actual.detections, class_count=reference.spec.class_count
        )
    except DataError:
        return None


def _digest(graph: DetectorGraph) -> str:
    """Of the weights of a graph, by which it is told from another."""
    digest = sha256()
    for node in graph.model.get_ordered_ops():
        if node.get_type_name() == "Constant":
            digest.update(np.ascontiguousarray(node.get_data()).tobytes())
    return digest.hexdigest()


def _reported(
    images: CalibrationImages, stage: str, count: int | None, report: Progress
) -> Iterator[npt.NDArray[np.float32]]:
    total = min(len(images), count or len(images))
    report(stage, 0, total)
    for done, image in enumerate(images.inputs(count), start=1):
        report(stage, done, total)
        yield image
