"""Quantizing a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detq.api.judging import agreement, expected_loss
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
from detq.data.calibration import CalibrationImages, readable_images
from detq.data.dataset import Split, load_split, sample_images
from detq.data.fingerprint import content_overlap, fingerprint
from detq.downloads.cache import cache_folder
from detq.errors import DownloadError, one_line
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Progress, silent
from detq.quant.accuracy_control import HeldAccuracy
from detq.quant.noise import tensor_noise
from detq.quant.observation_store import ObservationStore
from detq.quant.quantizer import QuantizedDetector, quantize_graph
from detq.records import EvalResult
from detq.report.figures import ObservedTensor
from detq.report.page import Evidence, render_report
from detq.tasks import strategy_of

DEFAULT_RECIPE = "measured"
AGREEMENT_IMAGES = 100
NOISE_IMAGES = 4
LEAST_HELD_BACK = 16
"""With fewer images beside those to calibrate on, agreement is measured on these."""


@dataclass(frozen=True)
class QuantizationResult:
    """An INT8 detector with everything that is known about how it came to be.

    ``agreement`` is the mAP of its detections against the float model's on ``judges``,
    other images of the calibration split, in percent, None if the float model found nothing there;
    for a classifier the share of these images that both take for the same class.
    ``held`` says what :func:`hold_accuracy` let fall back to float.
    ``held_back`` is False if the split has too few others, and calibration images had to do.
    ``examples`` are the images that a report compares both models on.
    """

    float_graph: DetectorGraph
    quantized: QuantizedDetector
    calibration: CalibrationImages
    calibration_fingerprint: str
    agreement: float | None
    judges: tuple[Path, ...]
    held_back: bool
    int8_share: float
    examples: Split
    held: HeldAccuracy | None = None

    @property
    def graph(self) -> DetectorGraph:
        """The INT8 detector graph."""
        return self.quantized.graph

    @property
    def expected_loss(self) -> tuple[float, float] | None:
        """Between which points of mAP such an agreement lets expect a loss
        (:func:`detq.api.judging.expected_loss`); None for classifiers and too few images.
        """
        if self.agreement is None or not strategy_of(self.graph.spec).FINDS_BOXES:
            return None
        return expected_loss(self.agreement, len(self.judges)) if self.held_back else None

    @cached_property
    def evidence(self) -> Evidence:
        """Where INT8 departs from float: along the network, in its tensors, on images.

        Both models run for it when it is first asked for.
        """
        tensors = [
            ObservedTensor(
                name=quantizer.name,
                part=quantizer.part,
                method=quantizer.rule,
                statistics=self.quantized.statistics[quantizer.name][0],
                low=quantizer.ranges[0].low if quantizer.ranges else None,
                high=quantizer.ranges[0].high if quantizer.ranges else None,
            )
            for quantizer in self.quantized.quantizers
            if len(self.quantized.statistics.get(quantizer.name, ())) == 1
        ]
        strategy = strategy_of(self.graph.spec)
        return Evidence(
            noise=tensor_noise(self.quantized, self.calibration.inputs(NOISE_IMAGES)),
            tensors=tensors,
            disagreements=strategy.differences(self.float_graph, self.graph, self.examples),
            judged=len(self.judges),
            examples=self.examples,
        )

    def save(
        self,
        directory: str | Path,
        *,
        measured: dict[str, Any] | None = None,
        scores: Sequence[EvalResult] = (),
    ) -> None:
        """Write the exported directory (:mod:`detq.artifact`); ``measured`` joins its metadata,
        ``scores``, the float model's first and its own last, join the report.
        """
        details = self._details(measured)
        words = strategy_of(self.graph.spec).WORDS
        report = render_report(self.float_graph, details, self.evidence, words, scores=scores)
        write_artifact(self.graph, Path(directory), details=details, report=report)

    def _details(self, measured: dict[str, Any] | None) -> dict[str, Any]:
        details: dict[str, Any] = {
            "recipe": self.quantized.recipe.model_dump(mode="json"),
            "passes": [{"name": step.name, "did": step.did} for step in self.quantized.steps],
            "calibration": {
                "images": len(self.calibration),
                "skipped": [one_line(path.name) for path in self.calibration.skipped],
                "fingerprint": self.calibration_fingerprint,
            },
            "split_layers": list(self.quantized.split_layers),
            "biases_corrected": self.quantized.biases_corrected,
            "activations": [
                {
                    "name": quantizer.name,
                    "part": quantizer.part,
                    "method": quantizer.rule,
                    "low": [found.low for found in quantizer.ranges],
                    "high": [found.high for found in quantizer.ranges],
                }
                for quantizer in self.quantized.quantizers
            ],
            "mixed_precision": self._mixed_precision(),
            "guard": self._accuracy_control(),
            "int8_share_of_convolution_macs": round(self.int8_share, 4),
            "agreement_with_float": self.agreement,
            "agreement_images": len(self.judges),
            "agreement_images_held_back": self.held_back,
            "expected_loss": self.expected_loss and list(self.expected_loss),
        }
        return {**details, "measured": measured} if measured else details

    def _mixed_precision(self) -> dict[str, Any] | None:
        mixed = self.quantized.mixed
        if mixed is None:
            return None
        return {
            "output_error_in_int8": mixed.int8_error,
            "output_error": mixed.error,
            "in_float": list(mixed.in_float),
        }

    def _accuracy_control(self) -> dict[str, Any] | None:
        if self.held is None:
            return None
        return {
            "returned_to_float": list(self.held.returned),
            "drops": dict(sorted(self.held.drops.items())),
            "share_of_macs_returned": round(self.held.mac_share, 4),
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
    graph = open_graph(model, imgsz)
    strategy = strategy_of(graph.spec)
    graph = replace(graph, spec=strategy.named(graph.spec, dataset))
    chosen = load_recipe(recipe)
    if calibration_images is not None:
        chosen = chosen.model_copy(update={"calibration_images": calibration_images})
    images_of = load_split(dataset, split, with_annotations=False)
    report = progress or silent
    count = chosen.calibration_images
    paths = sample_images(images_of, count, chosen.seed)
    more = sample_images(images_of, count + AGREEMENT_IMAGES, chosen.seed)
    kept = sorted(set(more) - set(paths))
    preprocess = strategy.preprocess(graph.spec)
    calibration = readable_images(paths, preprocess, progress=partial(report, "reading images"))
    held_back = len(kept) >= LEAST_HELD_BACK
    judges = calibration.paths[:AGREEMENT_IMAGES]
    if held_back:
        judges = readable_images(kept, preprocess).paths
    seen = fingerprint(calibration.paths)
    quantized = quantize_graph(
        graph,
        chosen,
        lambda stage, count: reported(calibration, stage, count, report),
        report,
        _observation_store(f"{seen} {calibration.preprocess}"),
    )
    int8 = strategy.compiled(quantized.graph)
    return QuantizationResult(
        float_graph=graph,
        quantized=quantized,
        calibration=calibration,
        calibration_fingerprint=seen,
        agreement=agreement(graph, int8, judges, report, must_hold=True),
        judges=judges,
        held_back=held_back,
        int8_share=int8.int8_share,
        examples=images_of.only(judges),
    )


def _observation_store(images: str) -> ObservationStore | None:
    """None for a user without a home directory: nothing is kept then."""
    try:
        return ObservationStore(cache_folder() / "observations", images)
    except DownloadError:
        return None


def calibration_overlap(result: QuantizationResult, data: DataSource, split: str) -> int:
    """How many calibration images, by content, are also in ``split``: there the mAP flatters."""
    images = load_split(open_dataset(data), split, with_annotations=False)
    return len(content_overlap(result.calibration.paths, images.paths))


def reported(
    images: CalibrationImages, stage: str, count: int | None, report: Progress
) -> Iterator[npt.NDArray[np.float32]]:
    """The first ``count`` network inputs, all if None; ``report`` hears of each."""
    total = min(len(images), count or len(images))
    report(stage, 0, total)
    for done, image in enumerate(images.inputs(count), start=1):
        report(stage, done, total)
        yield image
