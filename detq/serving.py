"""Graphs that take pixels, as files for programs that only run graphs.

``boxes``: a directory like :mod:`detq.artifact`'s, whose graph goes from pixels of any size to
detections. ``repository``: what OpenVINO Model Server serves, ``NAME/1/NAME.xml`` beside
``config.json``. Source: https://docs.openvino.ai, Model Server, preparing a model repository and
parameters (``base_path`` may be relative to ``config.json``).
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import openvino as ov
import yaml

from detq.errors import ArtifactError, DetqError
from detq.files import read_text, staged
from detq.graph.detector_graph import DetectorGraph
from detq.graph.model_info import with_model_info
from detq.graph.saving import METADATA, check_creatable, save_graph, writing
from detq.runtime.boxes_graph import DETECTIONS, with_boxes
from detq.runtime.detector import fed_with_pixels
from detq.runtime.postprocess import PREDICTION, PostprocessOptions

CONFIG = "config.json"
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
"""A server left to itself takes bfloat16 on CPUs that have it, which moves boxes by a pixel."""


def pixel_graph(graph: DetectorGraph, boxes: PostprocessOptions | None = None) -> ov.Model:
    """The graph from uint8 [1, H, W, 3] BGR of its own size; with ``boxes``, from any size to
    detections (:data:`~detq.runtime.boxes_graph.DETECTIONS`).

    It says what it is (``rt_info/model_info``). Raises ConfigError for boxes of a classifier.
    """
    thresholds = boxes or PREDICTION
    model = fed_with_pixels(graph.model) if boxes is None else with_boxes(graph, thresholds)
    return with_model_info(
        model,
        graph.spec,
        confidence=thresholds.confidence,
        iou=1.0 if thresholds.iou is None else thresholds.iou,
        takes="pixels" if boxes is None else "pixels-of-any-size",
    )


def write_boxes_graph(
    graph: DetectorGraph, directory: Path, options: PostprocessOptions = PREDICTION
) -> None:
    """Write ``NAME.xml`` and ``.bin`` of the graph from pixels to detections, and
    ``metadata.yaml``.

    Raises ArtifactError as :func:`~detq.artifact.write_artifact` does, ConfigError for a
    classifier.
    """
    model = pixel_graph(graph, options)
    with writing(directory), staged(directory.resolve()) as staging:
        staging.mkdir()
        save_graph(model, staging / f"{graph.spec.name}.xml")
        text = yaml.safe_dump(_boxes_metadata(graph), sort_keys=False, allow_unicode=True)
        (staging / METADATA).write_text(text, encoding="utf-8")


def _boxes_metadata(graph: DetectorGraph) -> dict[str, Any]:
    """Without Ultralytics' keys: its programs would take the detections for something else."""
    return {
        "description": f"{graph.spec.name}, from pixels to boxes, exported by detq",
        "author": "detq",
        "version": version("detq"),
        "detq": {
            "schema": 1,
            "takes": "images: uint8 [1, h, w, 3], BGR, of any size",
            "gives": f"{DETECTIONS}: float32 [n, 6], x1 y1 x2 y2 in pixels, score, class",
        },
    }


def write_repository(
    graph: DetectorGraph, directory: Path, boxes: PostprocessOptions | None = None
) -> None:
    """Write a model-server repository of this one model, replacing one that detq wrote before.

    Its graph is :func:`pixel_graph`. Raises ArtifactError, ConfigError for boxes of a classifier.
    """
    check_repository(directory)
    name, model = graph.spec.name, pixel_graph(graph, boxes)
    with writing(directory), staged(directory.resolve()) as staging:
        versions = staging / name / "1"
        versions.mkdir(parents=True)
        save_graph(model, versions / f"{name}.xml")
        text = json.dumps(_config(name), indent=2, ensure_ascii=False)
        (staging / CONFIG).write_text(text + "\n", encoding="utf-8")


def check_repository(directory: Path) -> None:
    """Raise ArtifactError unless :func:`write_repository` may write there."""
    if directory.exists() and not _replaceable(directory):
        raise ArtifactError(
            f"{directory}: exists and is no repository of one model that detq wrote; remove it or "
            "pass another --output"
        )
    check_creatable(directory)


def _config(name: str) -> dict[str, Any]:
    entry = {"name": name, "base_path": name, "plugin_config": EXACT}
    return {"model_config_list": [{"config": entry}]}


def _replaceable(directory: Path) -> bool:
    """An empty directory, or one that holds what is written here and nothing else."""
    if not directory.is_dir():
        return False
    names = {path.name for path in directory.iterdir()} - {CONFIG}
    if not names and not (directory / CONFIG).exists():
        return True
    try:
        config = json.loads(read_text(directory / CONFIG))
    except (OSError, ValueError, RecursionError, DetqError):
        return False
    return len(names) == 1 and config == _config(*names) and _is_one_version(directory, *names)


def _is_one_version(directory: Path, name: str) -> bool:
    return [path.name for path in (directory / name).iterdir()] == ["1"]
