"""Using a model: detections, pictures, accuracy, speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from detq.api.sources import (
    HANDWRITING,
    DataSource,
    ImageSize,
    ModelSource,
    Progress,
    open_dataset,
    open_graph,
    silent,
)
from detq.benchmark import DEFAULT_OPTIONS
from detq.benchmark import bench as measure_speed
from detq.data.dataset import load_split
from detq.data.digit_scenes import CLASS_NAMES as DIGIT_NAMES
from detq.data.images import list_images, read_images, write_image
from detq.data.letterbox import Preprocess
from detq.errors import ConfigError, DataError
from detq.evaluation.evaluator import evaluate as evaluate_detector
from detq.evaluation.protocol import PROTOCOLS
from detq.graph.detector_graph import DetectorGraph
from detq.records import BenchResult, EvalResult, Prediction
from detq.report.draw import draw_detections
from detq.runtime.detector import Detector
from detq.runtime.options import RuntimeOptions
from detq.runtime.pipeline import detect_stream
from detq.runtime.postprocess import EVALUATION, PREDICTION


def detector(
    model: ModelSource,
    *,
    imgsz: ImageSize | None = None,
    confidence: float = PREDICTION.confidence,
    iou: float = PREDICTION.iou,
    options: RuntimeOptions | None = None,
) -> Detector:
    """A model ready to find objects: ``detector(model).detect(image_bgr)``.

    For many images, or a video, see :func:`detq.detect_stream`. Raises a DetqError for bad input.
    """
    graph = open_graph(model, imgsz)
    return Detector(
        graph,
        preprocess=default_preprocess(graph),
        postprocess=replace(PREDICTION, confidence=confidence, iou=iou),
        options=options,
    )


def predict(
    model: ModelSource,
    source: str | Path,
    *,
    output: str | Path,
    imgsz: ImageSize | None = None,
    confidence: float = PREDICTION.confidence,
    iou: float = PREDICTION.iou,
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
    preset: str = "yolov6",
    progress: Progress | None = None,
) -> EvalResult:
    """COCO mAP of a model on a split of a data set, by a protocol of :data:`PROTOCOLS`.

    Raises a DetqError for bad input.
    """
    if preset not in PROTOCOLS:
        raise ConfigError(f"preset {preset!r}: expected one of {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[preset]
    graph = open_graph(model, imgsz)
    report = progress or silent
    return evaluate_detector(
        Detector(graph, preprocess=protocol.preprocess(graph.spec), postprocess=EVALUATION),
        load_split(open_dataset(data), split),
        protocol=protocol,
        progress=partial(report, f"evaluating {graph.spec.name}"),
    )


def has_ground_truth(data: DataSource, split: str) -> bool:
    """True if the data set has annotations for the split. Raises ConfigError for an unknown one."""
    return load_split(open_dataset(data), split).annotations is not None


def bench(
    models: Sequence[ModelSource],
    *,
    imgsz: ImageSize | None = None,
    rounds: int = 50,
    bursts: int = 0,
    options: RuntimeOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
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
    rows: Sequence[EvalResult],
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
                "map": row.map,
                "map50": row.map50,
                "map75": row.map75,
                "size_mb": round(row.size_mb, 3),
                "latency_ms": None if speed is None else round(speed.latency_ms, 3),
                "speedup": None if speed is None else round(speed.speedup, 3),
            }
            for row, speed in zip(rows, latencies, strict=True)
        },
    }


def sample_picture(found_by: Detector) -> Path | None:
    """A photograph that shows what a model finds: of handwriting for digits, else None."""
    return HANDWRITING if found_by.spec.class_names == DIGIT_NAMES else None


def default_preprocess(graph: DetectorGraph) -> Preprocess:
    """The letterbox that a model was published with."""
    return PROTOCOLS["yolov6"].preprocess(graph.spec)


def evaluation_detector(graph: DetectorGraph) -> Detector:
    """A detector that reports every candidate that evaluation counts."""
    return Detector(graph, preprocess=default_preprocess(graph), postprocess=EVALUATION)


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
