"""A network of the caller's own, already in memory -> fused float model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detq.adapters.load import FloatModel
from detq.errors import GraphError
from detq.models.branches import fuse_branches
from detq.records import ModelSpec, SizeHW, Task

_TOLERANCE = 1e-3  # of the largest output; rounding to float32 makes some 1e-6


@torch.no_grad()
def adapt_module(
    module: nn.Module,
    *,
    name: str,
    class_names: Sequence[str],
    strides: Sequence[int],
    size_hw: SizeHW,
    task: Task = "detect",
) -> FloatModel:
    """Fuse a detector whose ``forward`` maps images [B, 3, H, W] (RGB, 0..1) to predictions
    [B, 4 + nc, N]: centre x, centre y, width, height in input pixels, then ``nc`` scores in 0..1;
    or a classifier that maps them to scores [B, nc].

    ``module`` stays as it is; its evaluation mode is what counts, in float32. Raises GraphError if
    it cannot be traced, returns something else, or computes something else once fused.
    """
    spec = ModelSpec(name, "custom", tuple(class_names), tuple(strides), size_hw, task=task)
    fused = fuse_branches(module)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((1, 3, *size_hw), generator=generator)
    expected = _output(copy.deepcopy(module).float().eval(), images, spec)
    actual = _output(fused.module.float(), images, spec)
    difference = float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference <= _TOLERANCE:
        raise GraphError(
            f"{name}: fused, it computes something else (by {difference:.1e} of its largest "
            "output); tensors that are changed in place (+=) cannot be followed: write x = x + y"
        )
    return FloatModel(fused.module, replace(spec, reparameterized=fused.reparameterized))


def _output(module: nn.Module, images: Tensor, spec: ModelSpec) -> Tensor:
    """What the network returns, if it is what the contract asks for."""
    try:
        output = module(images)
    except Exception as error:  # the network's own code runs here, and may raise anything
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        height, width = spec.size_hw
        raise GraphError(
            f"{spec.name}: fails on an image of {height}x{width} ({reason}); pass another imgsz"
        ) from None
    classifies = spec.task == "classify"
    rows = spec.class_count if classifies else 4 + spec.class_count
    if not isinstance(output, Tensor):
        found = type(output).__name__
    elif output.dim() == (2 if classifies else 3) and output.shape[:2] == (1, rows):
        if not classifies or _are_probabilities(output):
            return output
        found = "numbers that are no probabilities (softmax is missing)"
    else:
        found = str(list(output.shape))
    wanted = f"scores [1, {rows}]" if classifies else f"predictions [1, {rows}, N]"
    raise GraphError(
        f"{spec.name}: forward() must return {wanted} for {spec.class_count} "
        f"classes, found {found}; see docs/adapters.md"
    )


def _are_probabilities(scores: Tensor) -> bool:
    return bool((scores >= 0).all() and (scores.sum(1) - 1).abs().max() < 1e-3)
