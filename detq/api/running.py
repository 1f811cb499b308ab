"""Using a model: detections, pictures, accuracy, speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from detq.api.sources import (
    HANDWRITING,
    DataSource,
    ImageSize,
    ModelSource,
    load_untried,
    open_dataset,
    open_graph,
)
from detq.artifact import read_details
from detq.benchmark import DEFAULT_OPTIONS, variants_of
from detq.benchmark import bench as measure_speed
from detq.config import DatasetConfig
from detq.data.calibration import Preprocessing
from detq.data.digit_scenes import CLASS_NAMES as DIGIT_NAMES
from detq.data.images import list_images
from detq.errors import ArtifactError, ConfigError
from detq.evaluation.protocol import find_protocol
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Progress, Steps, silent
from detq.records import BenchResult, Classified, EvalResult, Prediction
from detq.runtime.classifier import Classifier
from detq.runtime.detector import Detector, Rect
from detq.runtime.options import FloatPrecision, RuntimeOptions
from detq.runtime.postprocess import PREDICTION
from detq.runtime.tuned import read_tuned, write_tuned
from detq.scale.cluster import Cluster, check_device
from detq.scale.engines import Engine
from detq.scale.evaluation import RunOnRay
from detq.tasks import strategy_of
from detq.tasks.classification import classify_images
from detq.tasks.pictures import draw_pictures, plan_pictures
from detq.tuning import Tuning
from detq.tuning import tune as measure_options


def detector(
    model: ModelSource,
    *,
    imgsz: ImageSize | None = None,
    confidence: float = PREDICTION.confidence,
    iou: float | None = PREDICTION.iou,
    options: RuntimeOptions | None = None,
    rect: bool | None = False,
) -> Detector:
    """A model ready to find objects: ``detector(model).detect(image_bgr)``.

    Images fill the network's input; with ``rect`` it has their own shape, in whole strides, and no
    time goes into padding: for a video, or images of few shapes, each of which is compiled once.
    None: where the graph is not bound to its size, for which True raises CheckpointError.
    The few pixels that evaluation of official models leaves free
    would cost a frame that fits already some milliseconds of resizing. For many images, or a
    video, see :func:`detq.detect_stream`. Without ``options`` an exported directory that was tuned
    on this machine runs as :func:`tune` found best. Raises a DetqError for bad input.
    """
    graph = open_graph(model, imgsz)
    return Detector(
        graph,
        postprocess=replace(PREDICTION, confidence=confidence, iou=iou),
        options=options or tuned_options(model),
        rect=Rect.of(rect),
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
    return classify_images(classifier(model, imgsz=imgsz), Path(source), progress or silent)


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
    planned = plan_pictures(Path(source), Path(output))
    found_by = detector(model, imgsz=imgsz, confidence=confidence, iou=iou)
    return draw_pictures(found_by, planned, progress or silent)


def evaluate(
    model: ModelSource,
    *,
    data: DataSource,
    split: str = "val",
    imgsz: ImageSize | None = None,
    preset: str | None = None,
    options: RuntimeOptions | None = None,
    rect: bool = False,
    engine: Engine = "local",
    address: str | None = None,
    progress: Progress | None = None,
) -> EvalResult:
    """How good a model is on a split of a data set: a detector's COCO mAP, a classifier's top-1.

    ``preset`` names a protocol for mAP (:data:`detq.evaluation.protocol.PROTOCOLS`), by default the
    one behind the figures of the model's family; a classifier's images lie in one folder per class.
    With ``rect`` inputs have the images' own shapes, as in the programs' rectangular figures.
    Without ``options`` an exported directory is measured as it runs on this machine, with the
    float precision that :func:`tune` found best.
    ``engine`` ``ray`` has the images of a detector seen by the workers of a Ray cluster (the one at
    ``address``, or one of this machine), with the same figures.
    Raises a DetqError for bad input.
    """
    if engine == "ray" and options is not None:
        check_device(options.device)
    graph = open_graph(model, imgsz)
    return strategy_of(graph.spec).evaluate(
        graph,
        open_dataset(data),
        split,
        preset=find_protocol(preset, graph.spec).name,
        options=options or tuned_options(model),
        rect=rect,
        runner=RunOnRay(Cluster(address)) if engine == "ray" else None,
        progress=partial(progress or silent, f"evaluating {graph.spec.name}"),
    )


def judged_split(graph: DetectorGraph, data: DatasetConfig, split: str | None) -> str | None:
    """The split to measure on, by default ``val`` if the data set has one; None if the data set
    does not say what is right there. Raises ConfigError for an unknown split.
    """
    if split is None and data.val is None:
        return None
    judged = split or "val"
    return judged if strategy_of(graph.spec).has_ground_truth(data, judged) else None


def doubt(
    graph: DetectorGraph, *, data: DatasetConfig, split: str, model: Path | None = None
) -> str | None:
    """Why figures of a model on a split would mean nothing, in one line; None if all is well.

    ``model`` is the file that it was read from, which may be readable in another layout, unless
    detq wrote it (:mod:`detq.tasks.doubts`).
    """
    if model is not None and read_details(model):
        model = None
    return strategy_of(graph.spec).doubt(graph, data, split, model=model, read=load_untried)


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

    Float models are measured in every precision that the machine executes, one result each, and
    speed-ups are against the fastest (:mod:`detq.benchmark`).
    """
    graphs = [open_graph(model, imgsz) for model in models]
    return measure_speed(
        [each for graph in graphs for each in variants_of(graph, options or DEFAULT_OPTIONS)],
        rounds=rounds,
        bursts=bursts,
        progress=progress,
    )


def fastest_float(
    model: ModelSource, *, imgsz: ImageSize | None = None, device: str = "CPU"
) -> FloatPrecision:
    """The precision in which a float model is fastest on a device, measured in some seconds.

    For ``RuntimeOptions(float_precision=…)``; ``f32`` for a quantized model.
    """
    variants = variants_of(open_graph(model, imgsz), RuntimeOptions(device=device))
    if len(variants) == 1:
        return variants[0].float_precision
    measured = zip(variants, measure_speed(variants, rounds=10), strict=True)
    fastest, _ = min(measured, key=lambda pair: pair[1].latency_ms)
    return fastest.float_precision


def tune(
    model: str | Path, *, images: str | Path | None = None, progress: Steps | None = None
) -> Tuning:
    """Find the options with which an exported directory does most on this machine, and keep them.

    They go into ``runtime.json`` in the directory, for :func:`detector`. ``images``, a file or a
    folder, let it try 16-bit floats for what is not quantized, which change detections a little
    (:mod:`detq.tuning`). Raises a DetqError for anything but an exported directory.
    """
    directory = Path(model)
    check_tunable(directory)
    graph = open_graph(directory, None)
    if images is not None and not strategy_of(graph.spec).FINDS_BOXES:
        raise ConfigError(f"{graph.spec.name}: only detectors are tuned on images; leave them out")
    found = measure_options(
        graph, () if images is None else list_images(Path(images)), progress=progress
    )
    write_tuned(directory, found.best.options)
    return found


def check_tunable(directory: Path) -> None:
    """Raise ArtifactError for anything but a directory that detq wrote."""
    if not (directory.is_dir() and read_details(directory)):
        raise ArtifactError(f"{directory}: only a directory that detq wrote can be tuned")


def tuned_options(model: ModelSource) -> RuntimeOptions | None:
    """What :func:`tune` found best on this machine for an exported directory, if it did."""
    return None if isinstance(model, DetectorGraph) else read_tuned(Path(model))


def sample_picture(found_by: Detector) -> Path | None:
    """A photograph that shows what a model finds: of handwriting for digits, else None."""
    return HANDWRITING if found_by.spec.class_names == DIGIT_NAMES else None


def default_preprocess(graph: DetectorGraph) -> Preprocessing:
    """What images go through before the network: the letterbox that a detector was published with,
    a classifier's centre crop.
    """
    return strategy_of(graph.spec).preprocess(graph.spec)
