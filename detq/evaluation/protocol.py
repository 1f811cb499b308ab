"""Evaluation protocols: what a published figure rests on beside the model and the images."""

from __future__ import annotations

from dataclasses import dataclass

from detq.data.letterbox import Preprocess, official_shrink
from detq.errors import ConfigError
from detq.records import ModelSpec
from detq.runtime.postprocess import EVALUATION, PostprocessOptions


@dataclass(frozen=True)
class Protocol:
    """A named way to evaluate.

    ``official_shrink`` resizes official models as their published figures do. ``renumbers``
    numbers the objects from 1: pycocotools counts a matched object with id 0 as missed. YOLOv6's
    program numbers the objects of YOLO label files from 0, so its figures, and the protocol of
    that name, count one object too few; in a data set of some hundred objects that costs tenths of
    a point. ``postprocess`` says which candidates are counted.
    """

    name: str
    official_shrink: bool
    renumbers: bool
    postprocess: PostprocessOptions = EVALUATION

    def preprocess(self, spec: ModelSpec) -> Preprocess:
        """How images become inputs of that model."""
        shrink = official_shrink(spec.name, spec.size_hw) if self.official_shrink else 0
        return Preprocess(spec.size_hw, shrink, spec.fit)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("yolov6", official_shrink=True, renumbers=False),
        Protocol("coco", official_shrink=False, renumbers=True),
        Protocol(
            "ultralytics",
            official_shrink=False,
            renumbers=True,
            postprocess=PostprocessOptions(confidence=0.001, iou=0.7),
        ),
    )
}


def find_protocol(name: str | None, spec: ModelSpec) -> Protocol:
    """The protocol of that name, by default the model's own. Raises ConfigError."""
    if name is None:
        return default_protocol(spec)
    if name not in PROTOCOLS:
        raise ConfigError(f"preset {name!r}: expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def default_protocol(spec: ModelSpec) -> Protocol:
    """The protocol behind the published figures of the model's family."""
    return PROTOCOLS["ultralytics" if spec.family == "ultralytics" else "yolov6"]
