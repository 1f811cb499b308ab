"""What a Python user calls. The command line is a thin layer over these functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detq.artifact import read_artifact, write_artifact
from detq.benchmark import DEFAULT_OPTIONS
from detq.benchmark import bench as measure_speed
from detq.config import DatasetConfig, Recipe, read_dataset, read_recipe
from detq.data.calibration import CalibrationImages, readable_images
from detq.data.dataset import load_split, sample_images
from detq.data.fingerprint import content_overlap, fingerprint
from detq.data.images import list_images, read_images, write_image
from detq.data.letterbox import Preprocess
from detq.downloads.cache import forget, obtain_dataset, obtain_model
from detq.downloads.catalog import DATASETS, MODELS
from detq.errors import (
    CalibrationError,
    CheckpointError,
    ConfigError,
    DataError,
    DownloadError,
)
from detq.evaluation.agreement import MIN_SCORE, agreement
from detq.evaluation.evaluator import evaluate as evaluate_detector
from detq.evaluation.evaluator import run_detector
from detq.evaluation.protocol import PROTOCOLS
from detq.graph.convert import from_onnx, from_torch, resized
from detq.graph.detector_graph import DetectorGraph
from detq.quant.guard import GuardMemory, GuardResult, hold_drop
from detq.quant.noise import tensor_noise
from detq.quant.ptq import QuantizedDetector, quantize_graph
from detq.records import BenchResult, EvalResult, Prediction, SizeHW
from detq.report.disagreement import worst_disagreements
from detq.report.draw import draw_detections
from detq.report.figures import ObservedTensor
from detq.report.page import Evidence, render_report
from detq.runtime.detector import Detector
from detq.runtime.options import RuntimeOptions
from detq.runtime.pipeline import detect_stream
from detq.runtime.postprocess import EVALUATION, PREDICTION

if TYPE_CHECKING:
    from torch import nn

    from detq.adapters import StoredModel

DEFAULT_RECIPE = "measured"
EMBEDDED = Path(str(files("detq.weights")))
"""The models that detq brings along, and what belongs to them."""
HANDWRITING = EMBEDDED / "handwriting.jpg"
"""A page of handwriting for the digits model, made without its data set's generator."""
AGREEMENT_IMAGES = 32
NOISE_IMAGES = 4
LEAST_HELD_BACK = 16
"""With fewer images beside those to calibrate on, agreement is measured on these."""
LEAST_AGREEMENT = 20.0
"""Below this mAP against the float model, the INT8 model is broken and not handed out."""

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the number of images done and the number of all."""

ModelSource = str | Path | DetectorGraph
DataSource = str | Path | DatasetConfig
RecipeSource = str | Path | Recipe
ImageSize = int | tuple[int, int]


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


def load(
    model: str | Path, *, imgsz: ImageSize | None = None, progress: Progress | None = None
) -> DetectorGraph:
    """A checkpoint (.pt, .pth, .safetensors), an .onnx, an exported directory or its .xml.

    A bare name that is no file is a model that detq knows: its own ``digits_yolov6n``, or an
    official YOLOv6 release, which is downloaded once. ``imgsz`` is a side or (H, W) in pixels; by
    default the size that the file states, or its family's usual one. Raises CheckpointError for a
    file that cannot be read, and nothing in it is executed; DownloadError.
    """
    path, size_hw = _model_file(model, progress), _size_hw(imgsz)
    if path.suffix == ".onnx":
        return from_onnx(path, size_hw=size_hw)
    if path.is_dir() or path.suffix == ".xml":
        graph = read_artifact(path)
        return resized(graph, size_hw or graph.spec.size_hw)
    from detq.adapters import fuse_model, load_checkpoint  # noqa: PLC0415 - torch takes seconds

    try:
        stored = load_checkpoint(path, size_hw=size_hw)
    except CheckpointError as error:
        if not forget(path):
            raise
        raise DownloadError(f"{error}; the download was removed: try again") from None
    float_model = fuse_model(stored)
    return from_torch(float_model.module, float_model.spec)


def adapt(
    module: nn.Module,
    *,
    class_names: Sequence[str],
    strides: Sequence[int],
    imgsz: ImageSize,
    name: str = "detector",
) -> DetectorGraph:
    """A detector of your own, a ``torch.nn.Module``, fused and ready for every other function.

    Re-parameterized blocks are found by what they are. ``forward`` maps images [B, 3, H, W] (RGB,
    0..1) to predictions [B, 4 + nc, N]: centre x, centre y, width, height in input pixels, then a
    score per class in 0..1 (docs/adapters.md). Raises GraphError, DetqError.
    """
    from detq.adapters import adapt_module  # noqa: PLC0415 - torch takes seconds

    size_hw = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    model = adapt_module(
        module, name=name, class_names=class_names, strides=strides, size_hw=size_hw
    )
    return from_torch(model.module, model.spec)


def load_dataset(data: str | Path, *, progress: Progress | None = None) -> DatasetConfig:
    """A data set's YAML, or a known name (``coco128``, ``coco``), which is downloaded once.

    Raises ConfigError for a file that is missing or wrong, DownloadError.
    """
    name, path = str(data), Path(data)
    if name not in DATASETS or path.exists():
        return read_dataset(path)
    folder = obtain_dataset(name, progress=progress)
    config = read_dataset(Path(str(files("detq.configs"))) / "data" / f"{name}.yaml")
    return config.model_copy(update={"path": folder})


def convert(
    checkpoint: str | Path, output: str | Path, *, progress: Progress | None = None
) -> StoredModel:
    """Write a checkpoint that detq reads as ``.safetensors``: nothing in that can be executed.

    The network stays in training form. Raises CheckpointError, ArtifactError.
    """
    from detq.adapters import convert as convert_file  # noqa: PLC0415 - torch takes seconds

    return convert_file(_model_file(checkpoint, progress), Path(output))


def load_recipe(recipe: RecipeSource) -> Recipe:
    """A built-in recipe by name, or a YAML file. Raises ConfigError for anything else."""
    if isinstance(recipe, Recipe):
        return recipe
    names = {path.stem: path for path in builtin_recipes()}
    if str(recipe) in names:
        return read_recipe(names[str(recipe)])
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"recipe {str(recipe)!r}: expected a .yaml file or one of {', '.join(names)}"
        )
    return read_recipe(path)


def builtin_recipes() -> list[Path]:
    """The recipe files that detq ships, sorted by name."""
    folder = Path(str(files("detq.configs")))
    return sorted(folder.glob("*.yaml"))


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
    graph = _open(model, imgsz)
    chosen = load_recipe(recipe)
    if calibration_images is not None:
        chosen = chosen.model_copy(update={"calibration_images": calibration_images})
    images_of = load_split(_dataset(data), split, with_annotations=False)
    report = progress or _silent
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
    int8 = _detector(quantized.graph)
    return QuantizationResult(
        float_graph=graph,
        quantized=quantized,
        calibration=calibration,
        calibration_fingerprint=fingerprint(calibration.paths),
        agreement=_checked_agreement(_detector(graph), int8, judges, report),
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
    preset: str = "yolov6",
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
    report, float_graph = progress or _silent, result.float_graph
    chosen = _dataset(data)
    labelled = getattr(chosen, split, None) is not None and has_ground_truth(chosen, split)

    def measure(graph: DetectorGraph) -> float:
        if labelled:
            found = evaluate(graph, data=chosen, split=split, preset=preset, progress=report)
            return found.map or 0.0
        found_alike = _agreement(_detector(float_graph), _detector(graph), result.judges, report)
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
    int8 = _detector(guard.quantized.graph)
    return replace(
        result,
        quantized=guard.quantized,
        agreement=_agreement(_detector(float_graph), int8, result.judges, report),
        int8_share=int8.int8_share,
        guard=guard,
    )


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
    graph = _open(model, imgsz)
    report = progress or _silent
    return evaluate_detector(
        Detector(graph, preprocess=protocol.preprocess(graph.spec), postprocess=EVALUATION),
        load_split(_dataset(data), split),
        protocol=protocol,
        progress=partial(report, f"evaluating {graph.spec.name}"),
    )


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
    graph = _open(model, imgsz)
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
    report = progress or _silent
    names = found_by.spec.class_names
    frames = detect_stream(found_by, read_images(paths))
    for path, picture, frame in zip(paths, pictures, frames, strict=True):
        write_image(picture, draw_detections(frame.image, frame.detections, names))
        predictions.append(Prediction(str(path), frame.detections.named(names)))
        report("detecting", len(predictions), len(paths))
    return predictions


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
    graphs = [_open(model, imgsz) for model in models]
    return measure_speed(
        graphs,
        rounds=rounds,
        bursts=bursts,
        options=options or DEFAULT_OPTIONS,
        progress=progress,
    )


def has_ground_truth(data: DataSource, split: str) -> bool:
    """True if the data set has annotations for the split. Raises ConfigError for an unknown one."""
    return load_split(_dataset(data), split).annotations is not None


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


def calibration_overlap(result: QuantizationResult, data: DataSource, split: str) -> int:
    """How many calibration images, by content, are also in ``split``: there the mAP flatters."""
    images = load_split(_dataset(data), split, with_annotations=False)
    return len(content_overlap(result.calibration.paths, images.paths))


def default_preprocess(graph: DetectorGraph) -> Preprocess:
    """The letterbox that a model was published with."""
    return PROTOCOLS["yolov6"].preprocess(graph.spec)


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


def _model_file(model: str | Path, progress: Progress | None) -> Path:
    """The path given, or where the model of that name lies."""
    name, path = str(model), Path(model)
    if path.exists():
        return path
    embedded = EMBEDDED / f"{name}.safetensors"
    if path.name == name and embedded.is_file():
        return embedded
    if name in MODELS:
        return obtain_model(name, progress=progress)
    if path.name == name and not path.suffix:
        known = sorted({*(file.stem for file in EMBEDDED.glob("*.safetensors")), *MODELS})
        raise CheckpointError(f"{name}: no such file, nor a known model: {', '.join(known)}")
    return path


def _open(model: ModelSource, imgsz: ImageSize | None) -> DetectorGraph:
    if not isinstance(model, DetectorGraph):
        return load(model, imgsz=imgsz)
    return resized(model, _size_hw(imgsz) or model.spec.size_hw)


def _detector(graph: DetectorGraph) -> Detector:
    return Detector(graph, preprocess=default_preprocess(graph), postprocess=EVALUATION)


def _dataset(data: DataSource) -> DatasetConfig:
    return data if isinstance(data, DatasetConfig) else load_dataset(data)


def _size_hw(imgsz: ImageSize | None) -> SizeHW | None:
    return (imgsz, imgsz) if isinstance(imgsz, int) else imgsz


def _reported(
    images: CalibrationImages, stage: str, count: int | None, report: Progress
) -> Iterator[npt.NDArray[np.float32]]:
    total = min(len(images), count or len(images))
    report(stage, 0, total)
    for done, image in enumerate(images.inputs(count), start=1):
        report(stage, done, total)
        yield image


def _silent(stage: str, done: int, total: int) -> None:
    pass
