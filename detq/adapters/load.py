"""The way in: a checkpoint file becomes a float network with its description."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from detq.adapters.classifier_files import read_classifier_file, read_plain_safetensors
from detq.adapters.safetensors_file import SUFFIX, read_safetensors, write_safetensors
from detq.adapters.stored_model import StoredModel
from detq.adapters.yolov6 import read_yolov6
from detq.errors import CheckpointError
from detq.models.branches import fuse_branches
from detq.models.classifiers import ChainClassifier
from detq.models.fuse import fuse
from detq.records import ModelSpec, ReparamConvolution, SizeHW


def _read_torch(path: Path) -> StoredModel:
    """What ``torch.save`` wrote: a classifier's state dict, or a detector."""
    return read_classifier_file(path) or read_yolov6(path)


def _read_safetensors(path: Path) -> StoredModel:
    """detq's own file, or the tensors of a classifier alone, as timm keeps them."""
    return read_plain_safetensors(path) or read_safetensors(path)


_READERS: Mapping[str, Callable[[Path], StoredModel]] = {
    ".pt": _read_torch,
    ".pth": _read_torch,
    SUFFIX: _read_safetensors,
}


@dataclass(frozen=True)
class FloatModel:
    """A torch network in evaluation mode, float32, and what its tensors do not say.

    ``module`` maps images [B, 3, H, W] (RGB, 0..1) to predictions [B, 4+nc, N]: cx, cy, w, h in
    input pixels, then class scores; a classifier's to scores [B, nc].
    ``spec.reparameterized`` is empty until it is fused.
    """

    module: nn.Module
    spec: ModelSpec


def read_model(path: Path) -> StoredModel:
    """Read a YOLOv6 checkpoint of release 0.1 to 0.4, the state dict of a RepVGG or MobileOne
    classifier, or what :func:`convert` made of one.

    Nothing of what the file contains is run. Raises CheckpointError, naming the file, if it is
    missing, damaged, unsafe or not of a known family.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None and path.is_file():
        raise CheckpointError(
            f"{path}: unknown kind of model file {path.suffix!r}; checkpoints end in "
            f"{', '.join(_READERS)}"
        )
    return (reader or _read_torch)(path)


def load_checkpoint(path: Path, *, size_hw: SizeHW | None = None) -> FloatModel:
    """Read a model file for use in evaluation.

    ``size_hw`` defaults to what the model was trained for: YOLOv6's own files do not say, so it is
    the family's size, 640x640, 1280x1280 for the four-level (P6) families, 320x320 for Lite. Raises
    CheckpointError as :func:`read_model` does; DetqError if ``size_hw`` does not suit the network.
    """
    stored = read_model(path)
    spec = ModelSpec(
        name=path.stem,
        family=stored.family,
        class_names=stored.class_names,
        strides=stored.architecture.strides,
        size_hw=size_hw or stored.size_hw,
        task=stored.task,
    )
    return FloatModel(stored.module, spec)


def convert(source: Path, target: Path) -> StoredModel:
    """Write a checkpoint as safetensors: the same network, with nothing in it that could be run.

    Raises CheckpointError as :func:`read_model` does, and ArtifactError if ``target`` cannot be
    written.
    """
    stored = read_model(source)
    write_safetensors(stored, target)
    return stored


def fuse_model(model: FloatModel) -> FloatModel:
    """The same network with one convolution per block, and the names of those convolutions.

    The argument stays as it is; a fused model is returned unchanged.
    """
    if model.spec.reparameterized:
        return model
    if isinstance(model.module, ChainClassifier):
        branches = fuse_branches(model.module)
        found = {conv.name: conv for conv in branches.reparameterized}
        deployed = {name: ReparamConvolution(name, "backbone") for name in model.module.deployed}
        spec = replace(model.spec, reparameterized=tuple((found | deployed).values()))
        return FloatModel(branches.module, spec)
    fused = fuse(model.module)
    return FloatModel(fused.module, replace(model.spec, reparameterized=fused.reparameterized))
