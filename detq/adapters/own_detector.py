"""A network of the caller's own, already in memory -> fused float model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from detq.adapters.load import FloatModel, checked_output
from detq.contract import Task
from detq.errors import GraphError
from detq.models.reparam import fuse_branches
from detq.records import ModelSpec, SizeHW

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
    expected = checked_output(copy.deepcopy(module).float().eval(), images, spec)
    actual = checked_output(fused.module.float(), images, spec)
    difference = float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference <= _TOLERANCE:
        raise GraphError(
            f"{name}: fused, it computes something else (by {difference:.1e} of its largest "
            "output); tensors that are changed in place (+=) cannot be followed: write x = x + y"
        )
    return FloatModel(fused.module, replace(spec, reparameterized=fused.reparameterized))
