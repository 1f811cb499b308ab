"""What a model is, in the IR itself, in the words of OpenVINO's Model API.

``rt_info/model_info`` is read by Model API (``Model.create_model(xml)``) and, as labels and kind of
model, by DL Streamer. Source: https://docs.openvino.ai, Model API, model configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import openvino as ov

from detq.records import Fit, ModelSpec

_RESIZES: Mapping[Fit, tuple[str, int]] = {
    "yolov6": ("fit_to_window_letterbox", 114),
    "ultralytics": ("fit_to_window_letterbox", 114),
    "corner": ("fit_to_window", 114),
    "corner-black": ("fit_to_window", 0),
    "stretch": ("standard", 0),
    "stretch-cubic": ("standard", 0),
}
"""How Model API brings images to the input, and the grey of what they do not cover."""


Takes = Literal["tensor", "pixels", "pixels-of-any-size"]
"""float32 [1, 3, H, W] RGB 0..1; uint8 [1, H, W, 3] BGR; the same of any size, to detections."""


def with_model_info(
    model: ov.Model, spec: ModelSpec, *, confidence: float, iou: float, takes: Takes = "tensor"
) -> ov.Model:
    """A copy of a graph of ours that says what it is; its constants are shared.

    ``rt_info/detq/fit`` says what Model API has no word for (:data:`detq.records.Fit`).
    """
    named = model.clone()
    for key, value in model_info(spec, confidence=confidence, iou=iou, takes=takes).items():
        named.set_rt_info(value, ["model_info", key])
    named.set_rt_info(spec.fit, ["detq", "fit"])
    layout = "NCHW" if takes == "tensor" else "NHWC"
    named.get_parameters()[0].set_layout(ov.Layout(layout))
    return named


def model_info(
    spec: ModelSpec, *, confidence: float, iou: float, takes: Takes = "tensor"
) -> dict[str, str]:
    """What stands under ``model_info``, by key.

    A detector is called YOLOv8 there, whose output is laid out as ours is. What suppresses nothing
    has an IoU threshold of 1. A classifier has no kind: Model API crops images differently; nor has
    a graph that gives detections.
    """
    entries = {
        # Readers part them at spaces of any kind.
        "labels": " ".join(re.sub(r"\s", "_", name) or "_" for name in spec.class_names),
        "task": spec.task,
    }
    if takes == "tensor":
        entries |= {"reverse_input_channels": "True", "scale_values": "255"}
    if not spec.contract.has_places:
        return entries
    entries |= {
        "confidence_threshold": str(confidence),
        "iou_threshold": str(1.0 if spec.end_to_end else iou),
    }
    if takes == "pixels-of-any-size":
        return entries
    resize, grey = _RESIZES[spec.fit]
    if takes == "pixels":
        entries |= {"reverse_input_channels": "False", "scale_values": "1"}
    return {**entries, "model_type": "YOLOv8", "resize_type": resize, "pad_value": str(grey)}
