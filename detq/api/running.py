"""Using a model: detections, pictures, accuracy, speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from detq.api.sources import (
    HANDWRITING,
    DataSource,
    ImageSize,
    ModelSource,
    open_dataset,
    open_graph,
)
from detq.benchmark import DEFAULT_OPTIONS
from detq.benchmark import bench as measure_speed
from detq.data.calibration import Preprocessing
from detq.data.centre_crop import CentreCrop
from detq.data.class_folders import has_class_folders, load_labelled_split
from detq.data.dataset import load_split
from detq.data.digit_scenes import CLASS_NAMES as DIGIT_NAMES
from detq.data.images import list_images, read_images, write_image
from detq.data.letterbox import Preprocess
from detq.errors import ConfigError, DataError
from detq.evaluation.evaluator import evaluate as evaluate_detector
from detq.evaluation.protocol import PROTOCOLS, default_protocol
from detq.evaluation.top_k import evaluate_classifier as evaluate_top_k
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Progress, Steps, silent
from detq.records import BenchResult, Classified, EvalResult, Prediction, Task, TopResult
from detq.report.draw import draw_detections
from detq.runtime.classifier import Classifier, classify_stream
from detq.runtime.detector import Detector
from detq.runtime.options import RuntimeOptions
from detq.runtime.pipeline import detect_stream
from detq.runtime.postprocess import EVALUATION, PREDICTION, PostprocessOptions


def detector(
    model: ModelSource,
    *,
    imgsz: ImageSize | None = None,
    confidence: float = PREDICTION.confidence,
    iou: float | None = PREDICTION.iou,
    options: RuntimeOptions | None = None,
) -> Detector:
    """A model ready to find objects: ``detector(model).detect(image_bgr)``.

    Images fill the network's input. The few pixels that evaluation of official models leaves free
    would cost a frame that fits already some milliseconds of resizing. For many images, or a
    video, see :func:`detq.detect_stream`. Raises a DetqError for bad input.
    """
    graph = open_graph(model, imgsz)
    return Detector(
        graph,
        postprocess=replace(PREDICTION, confidence=confidence, iou=iou),
        options=options,
    )


def classifier(
    model: ModelSource,
    *,
    imgsz: ImageSize | None = None,
    options: RuntimeOptions | None = None,
) -> Classifier:
    """A model ready to tell what an image shows: ``classifier(model).classify(image_bgr)``.

    Raises a DetqError for bad input, and for a detector.
    """
    return Classifier(open_graph(model, imgsz), options=options)


def classify(
    model: ModelSource,
    source: str | Path,
    *,
    imgsz: ImageSize | None = None,
    progress: Progress | None = None,
) -> list[Classified]:
    """The five best classes of an image, or of each image in a folder.

    Raises a DetqError for a damaged image.
    """
    paths = list_images(Path(source))
    judge = classifier(model, imgsz=imgsz)
    found = []
    report = progress or silent
    for path, ranking in zip(paths, classify_stream(judge, read_images(paths)), strict=True):
        found.append(Classified(str(path), ranking.named(judge.spec.class_names)))
        report("classifying", len(found), len(paths))
    return found


def predict(
    model: ModelSource,
    source: str | Path,
    *,
    output: str | Path,
    imgsz: ImageSize | None = None,
    confidence: float = PREDICTION.confidence,
    iou: float | None = PREDICTION.iou,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Detect in an image or a folder, and write each picture with its boxes to ``output``.

    Pictures keep their file names and their folders below ``source``. Raises a DetqError for a
    damaged image, or if a picture cannot be written or would replace an image of ``source``.
    """
    paths = _images_outside(Path(source), Path(output))
    pictures = _picture_paths(Path(source), paths, Path(output))
    found_by = detector(model, imgsz=imgsz, confidence=confidence, iou=iou)
    predictions = []
    report = progress or silent
    names = found_by.spec.class_names
    frames = detect_stream(found_by, read_images(paths))
    for path, picture, frame in zip(paths, pictures, frames, strict=True):
        write_image(picture, draw_detections(frame.image, frame.detections, names))
        predictions.append(Prediction(str(path), frame.detections.named(names)))
        report("detecting", len(predictions), len(paths))
    return predictions


def evaluate(
    model: ModelSource,
    *,
    data: DataSource,
    split: str = "val",
    imgsz: ImageSize | None = None,
    preset: str | None = None,
    progress: Progress | None = None,
) -> EvalResult:
    """COCO mAP of a model on a split of a data set, by a protocol of :data:`PROTOCOLS`.

    ``preset`` is by default the protocol behind the figures of the model's family. Raises a
    DetqError for bad input.
    """
    if preset is not None and preset not in PROTOCOLS:
        raise ConfigError(f"preset {preset!r}: expected one of {', '.join(PROTOCOLS)}")
    graph = open_graph(model, imgsz)
    protocol = PROTOCOLS[preset or default_preset(graph)]
    report = progress or silent
    return evaluate_detector(
        Detector(
            graph, preprocess=protocol.preprocess(graph.spec), postprocess=protocol.postprocess
        ),
        load_split(open_dataset(data), split),
        protocol=protocol,
        progress=partial(report, f"evaluating {graph.spec.name}"),
    )


def evaluate_classifier(
    model: ModelSource,
    *,
    data: DataSource,
    split: str = "val",
    imgsz: ImageSize | None = None,
    progress: Progress | None = None,
) -> TopResult:
    """Top-1 and top-5 of a classifier on a split whose images lie in one folder per class.

    Raises a DetqError for bad input.
    """
    judge = classifier(model, imgsz=imgsz)
    return evaluate_top_k(
        judge,
        load_labelled_split(open_dataset(data), split),
        progress=partial(progress or silent, f"evaluating {judge.spec.name}"),
    )


def has_ground_truth(data: DataSource, split: str, *, task: Task = "detect") -> bool:
    """True if the data set says for the split what is right: objects, or class folders.

    Without a single object there is no mAP. Raises ConfigError for an unknown split.
    """
    config = open_dataset(data)
    if task == "classify":
        load_split(config, split, with_annotations=False)
        return has_class_folders(config, split)
    return bool(load_split(config, split).annotations)


def bench(
    models: Sequence[ModelSource],
    *,
    imgsz: ImageSize | None = None,
    rounds: int = 50,
    bursts: int = 0,
    options: RuntimeOptions | None = None,
    progress: Steps | None = None,
) -> list[BenchResult]:
    """Latency of several models, and throughput if ``bursts`` of it are wanted, measured in turns.

    See :mod:`detq.benchmark`.
    """
    graphs = [open_graph(model, imgsz) for model in models]
    return measure_speed(
        graphs,
        rounds=rounds,
        bursts=bursts,
        options=options or DEFAULT_OPTIONS,
        progress=progress,
    )


def measurement(
    rows: Sequence[EvalResult | TopResult],
    *,
    split: str,
    preset: str = "yolov6",
    overlap: int = 0,
    speeds: Sequence[BenchResult] | None = None,
) -> dict[str, Any]:
    """What an exported directory keeps of a measurement; the first row is the float model's.

    ``overlap`` is the number of calibration images that are also in ``split``; ``speeds`` has the
    latency of each row's model.
    """
    latencies: Sequence[BenchResult | None] = speeds or [None] * len(rows)
    return {
        "split": split,
        "preset": preset,
        "calibration_images_in_split": overlap,
        "models": {
            row.model: {
                **_scores(row),
                "size_mb": round(row.size_mb, 3),
                "latency_ms": None if speed is None else round(speed.latency_ms, 3),
                "speedup": None if speed is None else round(speed.speedup, 3),
            }
            for row, speed in zip(rows, latencies, strict=True)
        },
    }


def _scores(row: EvalResult | TopResult) -> dict[str, float | None]:
    if isinstance(row, TopResult):
        return {"top1": row.top1, "top5": row.top5}
    return {"map": row.map, "map50": row.map50, "map75": row.map75}


def sample_picture(found_by: Detector) -> Path | None:
    """A photograph that shows what a model finds: of handwriting for digits, else None."""
    return HANDWRITING if found_by.spec.class_names == DIGIT_NAMES else None


def default_preset(graph: DetectorGraph) -> str:
    """The name of the protocol behind the published figures of a model's family."""
    return default_protocol(graph.spec).name


def default_preprocess(graph: DetectorGraph) -> Preprocessing:
    """What images go through before the network: the letterbox that a detector was published with,
    a classifier's centre crop.
    """
    if graph.spec.task == "classify":
        return CentreCrop(graph.spec.size_hw)
    return _letterbox(graph)


def evaluation_detector(
    graph: DetectorGraph, *, postprocess: PostprocessOptions = EVALUATION
) -> Detector:
    """A detector that reports every candidate that evaluation counts, or others."""
    return Detector(graph, preprocess=_letterbox(graph), postprocess=postprocess)


def _letterbox(graph: DetectorGraph) -> Preprocess:
    return default_protocol(graph.spec).preprocess(graph.spec)


def _images_outside(source: Path, directory: Path) -> Sequence[Path]:
    """The images of ``source`` without an earlier run's pictures in a folder inside it."""
    paths, pictures = list_images(source), directory.resolve()
    if source.resolve() not in pictures.parents:
        return paths
    outside = [path for path in paths if pictures not in path.resolve().parents]
    if not outside:
        raise DataError(f"{source}: no images but the pictures in {directory}")
    return outside


def _picture_paths(source: Path, paths: Sequence[Path], directory: Path) -> list[Path]:
    """Where the picture of each image goes: the same names and folders, below ``directory``."""
    base = source if source.is_dir() else source.parent
    pictures = [directory / path.relative_to(base) for path in paths]
    originals = {path.resolve() for path in paths}
    for picture in pictures:
        if picture.resolve() in originals:
            raise DataError(f"{picture}: is an image of {source}; pass another --output")
    return pictures
