"""A model as a file for other toolchains."""

from __future__ import annotations

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
from detq.artifact import check_creatable, check_writable, read_details, write_artifact
from detq.errors import ConfigError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import nodes_of_type
from detq.onnx_export import write_onnx
from detq.progress import Progress
from detq.quant.quantizer import split_graph

Format = Literal["onnx", "onnx-qdq", "openvino"]
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
    progress: Progress | None = None,
) -> Path:
    """Write a model for another toolchain; returns the path.

    ``onnx``: the float network with its convolutions split as ``recipe`` says (by default all
    re-parameterized ones; those that a quantization with ``data`` chooses, if it is given).
    ``onnx-qdq``: an INT8 model as QuantizeLinear and DequantizeLinear, with detq's ranges, rounded
    weights and corrected biases. ``openvino``: an exported directory. A float model is quantized on
    ``data`` for the latter two; without ``data``, ``openvino`` writes it in float.

    Raises ConfigError for what does not go together, GraphError for an operation that ONNX lacks,
    ArtifactError, or what :func:`detq.quantize` raises.
    """
    if format not in get_args(Format):
        raise ConfigError(f"format {format!r}: expected one of {', '.join(get_args(Format))}")
    if isinstance(model, DetectorGraph):
        graph = open_graph(model, imgsz)
    else:
        graph = load(model, imgsz=imgsz, layout=layout, progress=progress)
    is_int8 = bool(nodes_of_type(graph.model, "FakeQuantize"))
    if is_int8 and (data is not None or recipe is not None):
        raise ConfigError(f"{graph.spec.name}: is quantized already; leave out data and recipe")
    path = Path(output) if output is not None else _default_path(graph, format, is_int8, data)
    if isinstance(model, str | Path) and path.resolve() == Path(model).resolve():
        raise ConfigError(f"{path}: is the model itself; pass another --output")
    (check_writable if format == "openvino" else check_creatable)(path)
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
    if format == "openvino" and result is not None:
        result.save(path)
    elif format == "openvino":
        is_file = is_int8 and not isinstance(model, DetectorGraph)
        write_artifact(graph, path, details=read_details(Path(str(model))) if is_file else None)
    elif format == "onnx":
        write_onnx(_split(graph, is_int8, result, recipe), path)
    else:
        write_onnx(_int8(graph, is_int8, result), path)
    return path


def _default_path(
    graph: DetectorGraph, format: Format, is_int8: bool, data: DataSource | None
) -> Path:
    name = graph.spec.name.removesuffix("_int8")
    if format == "openvino":
        return Path(f"{name}{'_int8' if is_int8 or data is not None else ''}_openvino_model")
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
