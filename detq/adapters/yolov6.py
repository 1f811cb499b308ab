"""YOLOv6 checkpoints of release 0.1 to 0.4 -> our own network with the stored weights."""

from __future__ import annotations

import torch
from torch import nn

from detq.adapters.archive import Archive
from detq.adapters.stored_model import StoredModel
from detq.adapters.tensors import fill, read_tensors
from detq.adapters.unpickle import Instance
from detq.adapters.yolov6_infer import infer_architecture
from detq.adapters.yolov6_tensors import to_training_form
from detq.adapters.yolov6_tree import StoredNetwork, children_of, read_tree
from detq.errors import CheckpointError, shown
from detq.models.architecture import DFL_BINS, AnyArchitecture, LiteArchitecture, YOLOv6Architecture
from detq.models.yolov6 import build
from detq.records import COCO_NAMES, SizeHW, placeholder_names

_PROJECTION = ("detect.proj", "detect.proj_conv.weight")  # constants 0..16, part of our decode
_DISTILLATION = {"reg_preds_dist", "reg_preds_lrtb"}
_GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "groups", "eps")


def read_yolov6(archive: Archive, network: Instance) -> StoredModel:
    """The YOLOv6 detector in a checkpoint, without running anything that it contains.

    Raises CheckpointError, naming the offending part, if it is damaged or of no known family.
    """
    stored = read_tree(network)
    architecture = infer_architecture(stored)
    class_names = _read_class_names(stored, architecture.class_count)
    with torch.device("meta"):  # shapes only: a lying file cannot make us allocate
        module = build(architecture)
    _check_attributes(stored, module, architecture)
    needed = {key: t for key, t in stored.tensors.items() if key not in _PROJECTION}
    fill(module, to_training_form(read_tensors(archive, needed), module))
    return StoredModel(
        module.eval().requires_grad_(False), architecture, class_names, _trained_size(architecture)
    )


def _trained_size(architecture: AnyArchitecture) -> SizeHW:
    """The input size of the family, in pixels."""
    if isinstance(architecture, LiteArchitecture):
        return (320, 320)
    return (1280, 1280) if len(architecture.strides) == 4 else (640, 640)


def _read_class_names(stored: StoredNetwork, class_count: int) -> tuple[str, ...]:
    names = stored.root.attributes.get("names")
    if names is None:
        return COCO_NAMES if class_count == len(COCO_NAMES) else placeholder_names(class_count)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError("the class names are no list of text")
    if len(names) != class_count:
        raise CheckpointError(f"{len(names)} class names for {class_count} classes")
    return tuple(names)


def _check_attributes(
    stored: StoredNetwork, module: nn.Module, architecture: AnyArchitecture
) -> None:
    """What the file says beside its tensors must agree with what was inferred from them."""
    head = stored.modules["detect"]
    distilled = not _DISTILLATION.isdisjoint(children_of(head))  # use_dfl means the other branch
    if isinstance(architecture, YOLOv6Architecture) and not distilled:
        distributions = architecture.regression_channels == 4 * DFL_BINS
        _check("detect.use_dfl", head.attributes.get("use_dfl", distributions), distributions)
    for path, expected in module.named_modules():
        if path in stored.modules and isinstance(
            expected, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
        ):
            actual = stored.modules[path].attributes
            for name in _GEOMETRY:
                if hasattr(expected, name) and name in actual:
                    _check(f"{path}.{name}", actual[name], getattr(expected, name))


def _check(name: str, actual: object, expected: object) -> None:
    if actual != expected:
        raise CheckpointError(f"{name} is {shown(actual)}, expected {expected!r}")
