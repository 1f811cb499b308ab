"""A model as a file for other toolchains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from detq.api.quantization import DEFAULT_RECIPE, QuantizationResult, quantize
from detq.api.sources import (
    DataSource,
    ImageSize,
    ModelSource,
    RecipeSource,
    load,
    load_recipe,
    open_graph,
)
from detq.artifact import check_writable, read_details, write_artifact
from detq.errors import ConfigError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.saving import check_creatable
from detq.graph.surgery import nodes_of_type
from detq.graph.zero_points import without_folding
from detq.onnx_export import write_onnx
from detq.progress import Progress
from detq.quant.quantizer import split_graph
from detq.runtime.postprocess import PREDICTION, PostprocessOptions
from detq.serving import check_repository, write_boxes_graph, write_repository

Format = Literal["onnx", "onnx-qdq", "openvino", "ovms"]
SPLIT_RECIPE = "cfws_kl"
"""Splits every re-parameterized convolution of backbone and neck, and needs no images for that."""


def export(
    model: ModelSource,
    output: str | Path | None = None,
    *,
    format: Format = "onnx",
    data: DataSource | None = None,
    recipe: RecipeSource | None = None,
    imgsz: ImageSize | None = None,
    layout: str | None = None,
    calibration_images: int | None = None,
    split: str = "train",
    embed_preprocess: bool = False,
    confidence: float | None = None,
    iou: float | None = None,
    portable: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a model for another toolchain; returns the path.

    ``onnx``: the float network with its convolutions split as ``recipe`` says (by default all
    re-parameterized ones; those that a quantization with ``data`` chooses, if it is given).
    ``onnx-qdq``: an INT8 model as QuantizeLinear and DequantizeLinear, with detq's ranges, rounded
    weights and corrected biases. ``openvino``: an exported directory. ``ovms``: a repository for
    OpenVINO Model Server, whose graph takes uint8 [1, H, W, 3] BGR. A float model is quantized on
    ``data`` for the latter three; without ``data``, the last two write it in float.

    ``embed_preprocess``, for the last two: the graph goes from pixels of any size to boxes, by the
    thresholds ``confidence`` and ``iou`` (as :func:`detq.predict`); detq itself does not read it.
    ``portable``, for the same two: an INT8 graph that OpenVINO compiles for Arm too, slower with
    AMX by the zero points that convolutions then read (:mod:`detq.graph.zero_points`).

    Raises ConfigError for what does not go together, GraphError for an operation that ONNX lacks,
    ArtifactError, or what :func:`detq.quantize` raises.
    """
    _check_format(format, portable)
    if isinstance(model, DetectorGraph):
        graph = open_graph(model, imgsz)
    else:
        graph = load(model, imgsz=imgsz, layout=layout, progress=progress)
    is_int8 = bool(nodes_of_type(graph.model, "FakeQuantize"))
    if is_int8 and (data is not None or recipe is not None):
        raise ConfigError(f"{graph.spec.name}: is quantized already; leave out data and recipe")
    path = (
        Path(output)
        if output is not None
        else _default_path(graph, format, is_int8 or data is not None, embed_preprocess)
    )
    if isinstance(model, str | Path) and path.resolve() == Path(model).resolve():
        raise ConfigError(f"{path}: is the model itself; pass another --output")
    boxes = _boxes(format, embed_preprocess, confidence, iou)
    _CHECKS[format](path)
    result = None
    if data is not None:
        result = quantize(
            graph,
            data=data,
            recipe=recipe or DEFAULT_RECIPE,
            calibration_images=calibration_images,
            split=split,
            progress=progress,
        )
    if portable:
        graph, result = without_folding(graph), _portable(result)
    if format == "onnx":
        write_onnx(_split(graph, is_int8, result, recipe), path)
    elif format == "onnx-qdq":
        write_onnx(_int8(graph, is_int8, result), path)
    elif format == "ovms":
        write_repository(graph if result is None else result.graph, path, boxes)
    elif boxes is not None:
        write_boxes_graph(graph if result is None else result.graph, path, boxes)
    elif result is not None:
        result.save(path)
    else:
        is_file = is_int8 and not isinstance(model, DetectorGraph)
        write_artifact(graph, path, details=read_details(Path(str(model))) if is_file else None)
    return path


def _check_format(format: str, portable: bool) -> None:
    if format not in get_args(Format):
        raise ConfigError(f"format {format!r}: expected one of {', '.join(get_args(Format))}")
    if portable and format not in ("openvino", "ovms"):
        raise ConfigError(f"format {format}: --portable is for openvino and ovms; leave it out")


_CHECKS: Mapping[Format, Callable[[Path], None]] = {
    "onnx": check_creatable,
    "onnx-qdq": check_creatable,
    "openvino": check_writable,
    "ovms": check_repository,
}


def _boxes(
    format: Format, embedded: bool, confidence: float | None, iou: float | None
) -> PostprocessOptions | None:
    """How the graph is to suppress; None if it is not to."""
    if not embedded:
        if confidence is not None or iou is not None:
            raise ConfigError("confidence and iou: are of the graph with --embed-preprocess")
        return None
    if format not in ("openvino", "ovms"):
        raise ConfigError(f"format {format}: --embed-preprocess writes openvino and ovms alone")
    return replace(
        PREDICTION,
        confidence=PREDICTION.confidence if confidence is None else confidence,
        iou=PREDICTION.iou if iou is None else iou,
    )


def _portable(result: QuantizationResult | None) -> QuantizationResult | None:
    if result is None:
        return None
    graph = without_folding(result.graph)
    return replace(result, quantized=replace(result.quantized, graph=graph))


def _default_path(graph: DetectorGraph, format: Format, is_int8: bool, embedded: bool) -> Path:
    name = graph.spec.name.removesuffix("_int8")
    if format in ("openvino", "ovms"):
        kind = "ovms" if format == "ovms" else "openvino_model"
        return Path("_".join([name, *["int8"] * is_int8, *["boxes"] * embedded, kind]))
    return Path(f"{name}_{'split' if format == 'onnx' else 'int8'}.onnx")


def _split(
    graph: DetectorGraph,
    is_int8: bool,
    result: QuantizationResult | None,
    recipe: RecipeSource | None,
) -> DetectorGraph:
    """The float graph, split."""
    if is_int8:
        raise ConfigError(f"{graph.spec.name}: is quantized; --format onnx-qdq writes such a model")
    if result is not None:
        return DetectorGraph(result.quantized.unfinished.float_model, result.float_graph.spec)
    weights = load_recipe(recipe or SPLIT_RECIPE).weights
    return split_graph(graph, weights).graph


def _int8(graph: DetectorGraph, is_int8: bool, result: QuantizationResult | None) -> DetectorGraph:
    if result is not None:
        return result.graph
    if is_int8:
        return graph
    raise ConfigError(
        f"{graph.spec.name}: is a float model; pass --data to quantize it first, or an exported "
        "INT8 directory"
    )
