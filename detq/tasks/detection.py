"""Finding objects: boxes with classes, judged by COCO mAP."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from detq.config import DatasetConfig
from detq.data.dataset import Split, load_split
from detq.data.images import ImageBGR
from detq.data.letterbox import FITS, Preprocess, official_shrink
from detq.errors import DataError
from detq.evaluation.agreement import MIN_SCORE
from detq.evaluation.agreement import agreement as agreement_of
from detq.evaluation.classes import map_classes, with_names_of
from detq.evaluation.evaluator import Run, Runner, evaluation_detector, judge, run_detector
from detq.evaluation.evaluator import evaluate as evaluate_detector
from detq.evaluation.protocol import default_protocol, find_protocol
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Steps
from detq.records import Detections, EvalResult, ModelSpec
from detq.report.disagreement import Disagreement, worst_disagreements
from detq.report.words import Metric, Words
from detq.runtime.detector import Detector, Rect
from detq.runtime.options import RuntimeOptions
from detq.runtime.pipeline import detect_stream
from detq.runtime.postprocess import PREDICTION
from detq.tasks import doubts
from detq.tasks.strategy import Finder

METRICS: Sequence[Metric] = (("mAP", "map"), ("AP50", "map50"), ("AP75", "map75"))
COLUMNS: Sequence[Metric] = (
    *METRICS,
    ("small", "map_small"),
    ("medium", "map_medium"),
    ("large", "map_large"),
)
WORDS = Words(
    metrics=METRICS,
    differences="Scores from 0.25: the images with most objects that one of the models finds and "
    "the other does not.",
    alike="objects at the same places",
)
FINDS_BOXES = True
RECT_MARGIN = 0.5
"""What YOLOv6's and Ultralytics' own rectangular figures have."""
compiled = evaluation_detector
run = run_detector
doubt = doubts.doubt
blind = doubts.blind


def preprocess(spec: ModelSpec) -> Preprocess:
    """The letterbox that the model's family was published with."""
    return default_protocol(spec).preprocess(spec)


def preprocess_keys(spec: ModelSpec) -> dict[str, Any]:
    """Padding and margin in pixels, and the name of the rules."""
    shrink = official_shrink(spec.name, spec.size_hw)
    return {"padding": FITS[spec.fit].padding, "shrink": shrink, "fit": spec.fit}


def named(spec: ModelSpec, data: DatasetConfig) -> ModelSpec:
    """Folders of photographs name no classes of objects."""
    return spec if data.names_are_folders else with_names_of(spec, data.class_names)


def agreement(reference: Run, candidate: Run, *, class_count: int) -> float | None:
    """The candidate's mAP if what the reference found is taken for the truth."""
    try:
        return agreement_of(reference.detections, candidate.detections, class_count=class_count)
    except DataError:
        return None


def is_certain(detector: Detector, seen: Run) -> bool:
    """False if it finds as many objects as it may, in most images."""
    counts = [int((found.scores >= MIN_SCORE).sum()) for found in seen.detections]
    return bool(np.median(counts) < detector.postprocess.max_detections)


def differences(exact: DetectorGraph, rounded: DetectorGraph, images: Split) -> list[Disagreement]:
    """As prediction shows them, not as evaluation counts."""
    runs = [
        run_detector(evaluation_detector(graph, postprocess=PREDICTION), images.paths)
        for graph in (exact, rounded)
    ]
    names = exact.spec.class_names
    return worst_disagreements(images, runs[0].detections, runs[1].detections, names)


def has_ground_truth(data: DatasetConfig, split: str) -> bool:
    """Without a single object there is no mAP."""
    return bool(load_split(data, split).annotations)


def check_classes(spec: ModelSpec, data: DatasetConfig, split: str) -> None:
    """Those that have objects."""
    found = load_split(data, split)
    if found.annotations is not None:
        map_classes(spec, found.class_names, annotated=found.annotations.class_ids)


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
    """COCO mAP by the protocol that ``preset`` names, by default that of the model's family."""
    spec = graph.spec
    protocol = find_protocol(preset, spec)
    return evaluate_detector(
        Detector(
            graph,
            preprocess=protocol.preprocess(spec),
            postprocess=protocol.postprocess,
            options=options,
            rect=Rect(RECT_MARGIN) if rect else None,
        ),
        load_split(data, split),
        protocol=protocol,
        runner=runner or judge,
        progress=progress,
    )


def finder(
    graph: DetectorGraph,
    *,
    confidence: float,
    iou: float,
    rect: bool | None,
    options: RuntimeOptions | None,
) -> Finder:
    """A detector with prediction's rules."""
    found_by = Detector(
        graph,
        postprocess=replace(PREDICTION, confidence=confidence, iou=iou),
        options=options,
        rect=Rect.of(rect),
    )

    def find(images_bgr: Iterable[ImageBGR]) -> Generator[tuple[ImageBGR, Detections]]:
        with closing(detect_stream(found_by, images_bgr)) as frames:
            for frame in frames:
                yield frame.image, frame.detections

    return find
