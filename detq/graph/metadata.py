"""What an ONNX file or an IR says about itself beside its graph."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

import openvino as ov

from detq.errors import DetqError
from detq.records import ModelSpec

_OTHER_TASKS = {
    "segment": "segmentation",
    "pose": "poses",
    "obb": "oriented boxes",
    "classify": "classification",
    "semantic": "semantic segmentation",
}


def stored_spec(metadata: Mapping[str, str], name: str) -> ModelSpec | None:
    """What detq wrote of a model, which is now called ``name``; None if it did not write it all.

    Class names under Ultralytics' key win: a person may have changed them.
    """
    document = _document(metadata)
    names = stored_names(metadata)
    if names is not None and "class_names" in document:
        document["class_names"] = names
    try:
        return ModelSpec.from_dict({**document, "name": name})
    except DetqError:
        return None


def stored_details(metadata: Mapping[str, str]) -> dict[str, str]:
    """Of what detq wrote, that which holds for whatever has become of the graph."""
    document = _document(metadata)
    return {key: document[key] for key in ("family", "fit") if isinstance(document.get(key), str)}


def stored_names(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Class names as Ultralytics and detq write them: a Python dictionary, or a JSON one."""
    try:
        names = ast.literal_eval(metadata.get("names", "None"))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    if isinstance(names, dict):
        names = [names.get(index) for index in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def other_task(metadata: Mapping[str, str]) -> str | None:
    """What else than detection Ultralytics' exporter says that a network is for."""
    return _OTHER_TASKS.get(metadata.get("task", ""))


def embedded_metadata(model: ov.Model) -> dict[str, str]:
    """Class names as OpenVINO's Model API keeps them: words, spaces inside them underlined."""
    if not model.has_rt_info(["model_info", "labels"]):
        return {}
    labels = str(model.get_rt_info(["model_info", "labels"]).astype(str)).split()
    return {"names": repr([label.replace("_", " ") for label in labels])}


def _document(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The JSON object under detq's key; empty if there is none."""
    try:
        document = json.loads(metadata.get("detq", "{}"))
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
