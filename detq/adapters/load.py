"""The way in: a checkpoint file becomes a float network with its description."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from detq.adapters.yolov6 import read_yolov6
from detq.errors import CheckpointError
from detq.models.fuse import fuse
from detq.records import ModelSpec, SizeHW

CHECKPOINT_SUFFIXES = (".pt", ".pth")


@dataclass(frozen=True)
class FloatModel:
    """A torch network in evaluation mode, float32, and what its tensors do not say.

    ``module`` maps images [B, 3, H, W] (RGB, 0..1) to predictions [B, 4+nc, N]: cx, cy, w, h in
    input pixels, then class scores. ``spec.reparameterized`` is empty until it is fused.
    """

    module: nn.Module
    spec: ModelSpec


def load_checkpoint(path: Path, *, size_hw: SizeHW | None = None) -> FloatModel:
    """Read a YOLOv6 checkpoint of release 0.1 to 0.4, running nothing of what the file contains.

    ``size_hw`` defaults to the family's own size: 640x640, 1280x1280 for the four-level (P6)
    families, 320x320 for Lite. Raises CheckpointError, naming the file, if it is missing, damaged,
    unsafe or not of a known family; DetqError if ``size_hw`` does not suit the network.
    """
    if path.is_file() and path.suffix.lower() not in CHECKPOINT_SUFFIXES:
        raise CheckpointError(
            f"{path}: unknown kind of model file {path.suffix!r}; checkpoints end in "
            f"{' or '.join(CHECKPOINT_SUFFIXES)}"
        )
    network = read_yolov6(path)
    spec = ModelSpec(
        name=path.stem,
        family="yolov6",
        class_names=network.class_names,
        strides=network.architecture.strides,
        size_hw=size_hw or network.size_hw,
    )
    return FloatModel(network.module, spec)


def fuse_model(model: FloatModel) -> FloatModel:
    """The same network with one convolution per block, and the names of those convolutions.

    The argument stays as it is; a fused model is returned unchanged.
    """
    if model.spec.reparameterized:
        return model
    fused = fuse(model.module)
    return FloatModel(fused.module, replace(model.spec, reparameterized=fused.reparameterized))
