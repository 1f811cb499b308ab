"""Ultralytics' detectors (YOLOv3 to 26, RT-DETR): checkpoints and YAML descriptions -> a network.

A checkpoint is read as every other: its pickle is interpreted, not run. Ultralytics' package builds
the layers from the checked description (``ultralytics_config.py``), the stored tensors fill them,
and a head of our own decodes: every family gives predictions [B, 4 + nc, N] in pixels, also those
that end in a choice of the best (YOLOv10, YOLO26) and RT-DETR. Which of them need no non-maximum
suppression is said by ``end_to_end``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from detq.adapters.archive import Archive
from detq.adapters.stored_model import StoredModel
from detq.adapters.tensors import fill, read_tensors
from detq.adapters.ultralytics_config import ModelConfig, read_config
from detq.adapters.ultralytics_package import (
    build_empty,
    build_random,
    find_description,
    split_name,
)
from detq.adapters.unpickle import Instance
from detq.adapters.yolov6_tree import children_of, read_tree
from detq.contract import Task
from detq.errors import CheckpointError, ConfigError
from detq.models.routed import (
    DistanceHead,
    QueryHead,
    RoutedModule,
    RoutedNetwork,
    run_layers,
)
from detq.records import COCO_NAMES, Fit, SizeHW, placeholder_names
from detq.yaml_file import read_yaml

NETWORKS = ("ultralytics.nn.tasks.DetectionModel", "ultralytics.nn.tasks.RTDETRDetectionModel")
DEFAULT_SIZE = (640, 640)
MAX_WEIGHTS = 250_000_000
"""Of a network made from a description alone; the largest official one has 155 million."""
MAX_SIDE = 2048
"""A larger size has to be asked for, not said by a file."""
_PROBE_PX = 256
_STRIDES = (2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class UltralyticsArchitecture:
    """What is known of a network beside its weights."""

    config: ModelConfig
    strides: tuple[int, ...]
    end_to_end: bool
    family: ClassVar[str] = "ultralytics"
    task: ClassVar[Task] = "detect"

    @property
    def class_count(self) -> int:
        """How many classes it scores."""
        return self.config.class_count

    @property
    def fit(self) -> Fit:
        """How Ultralytics brings an image to the network's size."""
        return "stretch" if self.config.is_rtdetr else "ultralytics"


def read_ultralytics(archive: Archive, network: Instance) -> StoredModel:
    """The detector in a checkpoint that Ultralytics' training wrote; nothing in it is run.

    Raises CheckpointError, without the file's name, if it is malformed, or if Ultralytics' package
    is not installed.
    """
    attributes = network.attributes
    config = read_config(attributes.get("yaml"))
    class_names = _class_names(attributes.get("names"), config.class_count)
    size_hw = _size(attributes.get("args"))
    prefix = "model."
    tensors = read_tensors(archive, read_tree(network, children=_plain_children).tensors)
    foreign = sorted(key for key in tensors if not key.startswith(prefix))
    if foreign:
        raise CheckpointError(f"tensor {foreign[0]} belongs to no part of the network")
    layers = build_empty(config)
    architecture = _architecture(config, layers)
    fill(layers, {key.removeprefix(prefix): tensor for key, tensor in tensors.items()})
    return _stored(layers, architecture, class_names, size_hw)


def read_description(path: Path) -> StoredModel:
    """A YAML description of a network, a file or one that Ultralytics brings along
    (``yolov8n.yaml``), with random weights, the same each time: for trying things out.

    Raises CheckpointError, without the file's name.
    """
    file, letter = (
        (path, split_name(path.stem)[1]) if path.exists() else find_description(path.stem)
    )
    try:
        document = read_yaml(file)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    if isinstance(document.get("scales"), dict):
        document["scale"] = letter if letter in document["scales"] else None
    config = read_config(document)
    empty = build_empty(config)
    if sum(parameter.numel() for parameter in empty.parameters()) > MAX_WEIGHTS:
        raise CheckpointError(f"describes a network of more than {MAX_WEIGHTS} weights")
    architecture = _architecture(config, empty)
    layers = build_random(config)
    names = COCO_NAMES if config.class_count == len(COCO_NAMES) else None
    return _stored(layers, architecture, names or placeholder_names(config.class_count), None)


def _stored(
    layers: nn.Sequential,
    architecture: UltralyticsArchitecture,
    class_names: tuple[str, ...],
    size_hw: SizeHW | None,
) -> StoredModel:
    config = architecture.config
    head = _head(layers[-1], architecture)
    modules = [*list(layers)[:-1], head]
    network = RoutedNetwork(
        [
            RoutedModule(module, layer.sources, layer.listed)
            for module, layer in zip(modules, config.layers, strict=True)
        ],
        backbone_count=config.backbone_count,
    )
    return StoredModel(
        module=network.eval().requires_grad_(False),
        architecture=architecture,
        class_names=class_names,
        size_hw=_rounded(size_hw or DEFAULT_SIZE, max(architecture.strides)),
    )


def _head(head: Any, architecture: UltralyticsArchitecture) -> nn.Module:
    """Our decode behind the stored head's layers; the one-to-one branch where there is one."""
    if architecture.config.is_rtdetr:
        return QueryHead(head, architecture.strides[0])
    bins = int(head.reg_max)
    if bins > 1:
        weight = cast(Tensor, head.dfl.conv.weight)
        if not torch.equal(weight.flatten(), torch.arange(bins, dtype=weight.dtype)):
            raise CheckpointError("its distances are no means over 0, 1, … strides")
    one_to_one = architecture.end_to_end
    return DistanceHead(
        head.one2one_cv2 if one_to_one else head.cv2,
        head.one2one_cv3 if one_to_one else head.cv3,
        architecture.strides,
        bins=bins,
    )


def _architecture(config: ModelConfig, layers: nn.Sequential) -> UltralyticsArchitecture:
    """``layers`` on the meta device, so that a lying description costs no memory."""
    routes = [(layer.sources, layer.listed) for layer in config.layers[:-1]]
    image = torch.empty(1, 3, _PROBE_PX, _PROBE_PX, device="meta")
    try:
        with torch.no_grad(), torch.device("meta"):
            outputs = run_layers(list(layers)[:-1], routes, image)
    except Exception as error:  # shapes may disagree in any of the package's modules
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"its layers do not fit together ({reason})") from None
    maps = [each for value in outputs.values() for each in _tensors(value)]
    features = [outputs[source] for source in config.layers[-1].sources]
    strides = tuple(_PROBE_PX // _side(feature) for feature in features)
    too_large = any(max(each.shape[2:], default=0) > _PROBE_PX for each in maps)
    if too_large or not set(strides) <= set(_STRIDES) or list(strides) != sorted(set(strides)):
        raise CheckpointError(f"its head reads maps at strides {strides[:8]}; no detector does")
    one_to_one = getattr(layers[-1], "one2one_cv2", None) is not None
    return UltralyticsArchitecture(config, strides, config.is_rtdetr or one_to_one)


def _tensors(value: object) -> Iterator[Tensor]:
    for each in value if isinstance(value, list | tuple) else [value]:
        if isinstance(each, Tensor):
            yield each


def _side(feature: object) -> int:
    """Height of a map [B, C, H, W]; one that is none, or empty, has an impossible stride."""
    plain = isinstance(feature, Tensor) and feature.dim() == 4 and feature.shape[2]
    return int(cast(Tensor, feature).shape[2]) if plain else _PROBE_PX


def _plain_children(path: str, module: Instance) -> Iterator[tuple[str, Instance]]:
    yield from children_of(module).items()


def _class_names(names: object, count: int) -> tuple[str, ...]:
    listed: Sequence[object] = names if isinstance(names, list) else []
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        listed = [names[index] for index in range(len(names))]
    if len(listed) != count or not all(isinstance(name, str) for name in listed):
        raise CheckpointError(f"its class names are no list of {count} texts")
    return cast(tuple[str, ...], tuple(listed))


def _size(arguments: object) -> SizeHW | None:
    """The image size that the network was trained for, where the file says so."""
    values = arguments.attributes if isinstance(arguments, Instance) else arguments
    size = values.get("imgsz") if isinstance(values, Mapping) else None
    if isinstance(size, list | tuple) and len(size) == 2:
        height, width = size
    else:
        height = width = size
    if all(type(side) is int and 0 < side <= MAX_SIDE for side in (height, width)):
        return cast(SizeHW, (height, width))
    return None


def _rounded(size_hw: SizeHW, stride: int) -> SizeHW:
    """Up to multiples of the stride, as Ultralytics does."""
    height, width = (-(-side // stride) * stride for side in size_hw)
    return height, width
