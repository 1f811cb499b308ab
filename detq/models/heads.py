"""Detection heads and the decode that turns their maps into predictions.

The decode is a submodule of its own without parameters, so that a quantizer can recognise it by its
path and leave it in floating point.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detq.models.architecture import AnyArchitecture, LiteArchitecture, YOLOv6Architecture
from detq.models.blocks import DPBlock, conv_silu
from detq.records import SizeHW

Array = npt.NDArray[Any]


class Detect(nn.Module):
    """Decoupled head: per level one branch for classes and one for boxes.

    List of [B, C_i, H_i, W_i], finest level first -> predictions [B, 4+nc, N], N = ΣH_i·W_i.
    """

    def __init__(self, architecture: AnyArchitecture) -> None:
        super().__init__()
        lite = isinstance(architecture, LiteArchitecture)
        channels = architecture.head_channels
        sides = architecture.regression_channels
        self.stems = _per_level(channels, kernel=1, lite=lite)
        self.cls_convs = _per_level(channels, kernel=3, lite=lite)
        self.reg_convs = _per_level(channels, kernel=3, lite=lite)
        self.cls_preds = _predictors(channels, architecture.class_count)
        self.reg_preds = _predictors(channels, sides)
        self.decode: nn.Module = DistanceDecode(architecture.strides, bins=sides // 4)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        regressions, logits = [], []
        for level, feature in enumerate(features):
            stem = self.stems[level](feature)
            logits.append(self.cls_preds[level](self.cls_convs[level](stem)))
            regressions.append(self.reg_preds[level](self.reg_convs[level](stem)))
        predictions: Tensor = self.decode(regressions, logits)
        return predictions


class ObjectnessDetect(Detect):
    """The head of release 0.1.0: an extra objectness map scales the class scores."""

    def __init__(self, architecture: YOLOv6Architecture) -> None:
        super().__init__(architecture)
        self.obj_preds = _predictors(architecture.head_channels, 1)
        self.decode = CenterDecode(architecture.strides)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        regressions, logits, objectness = [], [], []
        for level, feature in enumerate(features):
            stem = self.stems[level](feature)
            logits.append(self.cls_preds[level](self.cls_convs[level](stem)))
            boxes = self.reg_convs[level](stem)
            regressions.append(self.reg_preds[level](boxes))
            objectness.append(self.obj_preds[level](boxes))
        predictions: Tensor = self.decode(regressions, logits, objectness)
        return predictions


class DistanceDecode(nn.Module):
    """Distances from an anchor point to the four sides of the box, in strides.

    Maps [B, 4·bins, H_i, W_i] and class logits [B, nc, H_i, W_i] -> [B, 4+nc, N]: cx, cy, w, h in
    input pixels, class scores. With several bins a distance is the mean of a softmax over 0, 1, …
    (Generalized Focal Loss, arXiv 2006.04388).
    """

    def __init__(self, strides: Sequence[int], *, bins: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.bins = bins

    def forward(self, regressions: Sequence[Tensor], logits: Sequence[Tensor]) -> Tensor:
        distances = _join(regressions)  # [B, 4·bins, N]
        if self.bins > 1:
            sides = torch.stack(torch.split(distances, self.bins, dim=1), dim=1)  # [B, 4, bins, N]
            bins = _constant(np.arange(self.bins).reshape(1, 1, self.bins, 1))
            distances = (sides.softmax(dim=2) * bins).sum(dim=2)
        cells, strides = cell_grid([plain_size(level) for level in regressions], self.strides)
        left_top, right_bottom = torch.split(distances, 2, dim=1)  # each [B, 2, N]
        centers = (_constant(cells + 0.5) + (right_bottom - left_top) * 0.5) * _constant(strides)
        sizes = (left_top + right_bottom) * _constant(strides)
        return torch.cat((centers, sizes, _join(logits).sigmoid()), dim=1)


class CenterDecode(nn.Module):
    """Release 0.1.0: the centre's offset from the cell's corner and the logarithm of the size.

    Both in strides. Scores are objectness times class score. Shapes as in :class:`DistanceDecode`,
    plus objectness logits [B, 1, H_i, W_i].
    """

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)

    def forward(
        self, regressions: Sequence[Tensor], logits: Sequence[Tensor], objectness: Sequence[Tensor]
    ) -> Tensor:
        cells, strides = cell_grid([plain_size(level) for level in regressions], self.strides)
        offsets, log_sizes = torch.split(_join(regressions), 2, dim=1)  # each [B, 2, N]
        centers = (offsets + _constant(cells)) * _constant(strides)
        sizes = log_sizes.exp() * _constant(strides)
        scores = _join(logits).sigmoid() * _join(objectness).sigmoid()
        return torch.cat((centers, sizes, scores), dim=1)


def cell_grid(sizes_hw: Sequence[SizeHW], strides: Sequence[int]) -> tuple[Array, Array]:
    """Grid cells (x, y) [1, 2, N] and their strides [1, 1, N], level by level, row by row."""
    cells, steps = [], []
    for (height, width), stride in zip(sizes_hw, strides, strict=True):
        rows, columns = np.indices((height, width))
        cells.append(np.stack((columns.ravel(), rows.ravel())))
        steps.append(np.full(height * width, stride))
    return np.concatenate(cells, axis=1)[None], np.concatenate(steps)[None, None]


def plain_size(level: Tensor) -> SizeHW:
    """Height and width as plain numbers, which a trace takes for constants: inputs are static."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TracerWarning: that is what we want
        return int(level.shape[-2]), int(level.shape[-1])


def _constant(numbers: Array) -> Tensor:
    """A float32 tensor that a trace records as a constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TracerWarning: that is what we want
        return torch.from_numpy(numbers.astype(np.float32))


def _join(maps: Sequence[Tensor]) -> Tensor:
    """[B, C, H_i, W_i] of every level -> [B, C, ΣH_i·W_i]."""
    return torch.cat([level.flatten(2) for level in maps], dim=2)


def _per_level(channels: Sequence[int], *, kernel: int, lite: bool) -> nn.ModuleList:
    return nn.ModuleList(
        DPBlock(width, 5) if lite else conv_silu(width, width, kernel) for width in channels
    )


def _predictors(channels: Sequence[int], out_channels: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in channels)
