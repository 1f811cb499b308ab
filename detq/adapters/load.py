"""The way in: a checkpoint file becomes a float network with its description."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from detq.adapters.archive import open_archive
from detq.adapters.classifier_files import read_classifier, read_plain_safetensors
from detq.adapters.legacy_file import is_legacy, open_legacy
from detq.adapters.safetensors_file import SUFFIX, read_safetensors, write_safetensors
from detq.adapters.stored_model import StoredModel
from detq.adapters.ultralytics import NETWORKS as ULTRALYTICS
from detq.adapters.ultralytics import read_description, read_ultralytics
from detq.adapters.yolov6 import read_yolov6
from detq.adapters.yolov6_tree import select_network
from detq.errors import CheckpointError, DetqError, GraphError
from detq.files import text_stem
from detq.models.reparam import fuse_branches
from detq.models.yolov6 import YOLOv6
from detq.records import ModelSpec, SizeHW


def _read_safetensors(path: Path) -> StoredModel:
    """detq's own file, or the tensors of a classifier alone, as timm keeps them."""
    return read_plain_safetensors(path) or read_safetensors(path)


_NEXT_STEP = "the file is damaged, or of a variant that detq does not read"


def _read_checkpoint(path: Path) -> StoredModel:
    """What ``torch.save`` wrote: a classifier's state dict, or a detector."""
    with (open_legacy if is_legacy(path) else open_archive)(path) as archive:
        classifier = read_classifier(archive)
        if classifier is not None:
            return classifier
        network = select_network(archive.root)
        if network.kind in ULTRALYTICS:
            return read_ultralytics(archive, network)
        return read_yolov6(archive, network)


_READERS: Mapping[str, Callable[[Path], StoredModel]] = {
    ".pt": _read_checkpoint,
    ".pth": _read_checkpoint,
    ".yaml": read_description,
    ".yml": read_description,
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
    """Read a YOLOv6 checkpoint of release 0.1 to 0.4, a checkpoint or a YAML description of
    Ultralytics, the state dict of a RepVGG or MobileOne classifier, or what :func:`convert` made
    of one.

    Nothing of what the file contains is run. Raises CheckpointError, naming the file, if it is
    missing, damaged, unsafe or not of a known family.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None and path.is_file():
        raise CheckpointError(
            f"{path}: unknown kind of model file {path.suffix!r}; models end in "
            f"{', '.join(_READERS)}, .onnx or .xml"
        )
    try:
        return (reader or _read_checkpoint)(path)
    except DetqError as error:
        raise _with_file(path, error) from None
    except _MALFORMED as error:  # values of kinds that no network has, where nothing expects them
        raise CheckpointError(
            f"{path}: malformed ({type(error).__name__}: {error}); {_NEXT_STEP}"
        ) from None


_MALFORMED = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, RuntimeError),
    *(TypeError, ValueError),
)


def _with_file(path: Path, error: DetqError) -> CheckpointError:
    message = str(error)
    if message.startswith(f"{path}: "):
        return CheckpointError(message)
    hint = "" if "; " in message else f"; {_NEXT_STEP}"
    return CheckpointError(f"{path}: {message}{hint}")


def load_checkpoint(path: Path, *, size_hw: SizeHW | None = None) -> FloatModel:
    """Read a model file for use in evaluation.

    ``size_hw`` defaults to what the model was trained for: YOLOv6's own files do not say, so it is
    the family's size, 640x640, 1280x1280 for the four-level (P6) families, 320x320 for Lite. Raises
    CheckpointError as :func:`read_model` does; DetqError if ``size_hw`` does not suit the network.
    """
    stored = read_model(path)
    architecture = stored.architecture
    spec = ModelSpec(
        name=text_stem(path),
        family=architecture.family,
        class_names=stored.class_names,
        strides=architecture.strides,
        size_hw=size_hw or stored.size_hw,
        task=architecture.task,
        end_to_end=architecture.end_to_end,
        fit=architecture.fit,
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

    The argument stays as it is; a fused model is returned unchanged. Raises GraphError if a network
    of Ultralytics does not run at the model's image size.
    """
    if model.spec.reparameterized:
        return model
    fused = fuse_branches(model.module, keep_names=isinstance(model.module, YOLOv6))
    if model.spec.family == "ultralytics":
        # RT-DETR keeps what it computed for a size, so that a trace must not be its first run.
        checked_output(fused.module, torch.zeros(1, 3, *model.spec.size_hw), model.spec)
    return FloatModel(fused.module, replace(model.spec, reparameterized=fused.reparameterized))


@torch.no_grad()
def checked_output(module: nn.Module, images: Tensor, spec: ModelSpec) -> Tensor:
    """What the network returns for images [1, 3, H, W], if it is what the contract asks for.

    Raises GraphError if it is not, or if the network fails.
    """
    try:
        output = module(images)
    except Exception as error:  # the network's own code runs here, and may raise anything
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        height, width = spec.size_hw
        raise GraphError(
            f"{spec.name}: fails on an image of {height}x{width} ({reason}); pass another imgsz"
        ) from None
    contract = spec.contract
    if not isinstance(output, Tensor):
        found = type(output).__name__
    elif output.dim() == contract.rank and output.shape[:2] == contract.begin(spec.class_count):
        if contract.has_places or _are_probabilities(output):
            return output
        found = "numbers that are no probabilities (softmax is missing)"
    else:
        found = str(list(output.shape))
    raise GraphError(
        f"{spec.name}: forward() must return {contract.described(spec.class_count)} for "
        f"{spec.class_count} classes, found {found}; see docs/adapters.md"
    )


def _are_probabilities(scores: Tensor) -> bool:
    return bool((scores >= 0).all() and (scores.sum(1) - 1).abs().max() < 1e-3)
