"""The convolution units of YOLOv6: plain ones and the re-parameterizable 3x3 blocks.

Attribute names are the key names of YOLOv6 checkpoints, so a state dict loads without renaming. The
activation, which has no keys, is ``act`` everywhere: exported graphs call it so.
Every unit maps [B, in, H, W] to [B, out, H/stride, W/stride].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

BATCH_NORM_EPS = 1e-3  # of every BatchNorm in every release; torch's own default is 1e-5

BlockKind = Literal[
    "repvgg", "qarepvgg", "qarepvggv2", "repopt", "hyper_search", "conv_relu", "conv_silu"
]
Activation: TypeAlias = Callable[[], nn.Module]
BlockFactory: TypeAlias = Callable[..., nn.Module]  # (in_channels, out_channels, *, stride=1)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """A BatchNorm with YOLOv6's epsilon."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, momentum=0.03)


class ConvModule(nn.Module):
    """Convolution without bias, BatchNorm, activation (or none)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = batch_norm(out_channels)
        self.act = activation() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class WrappedConv(nn.Module):
    """A ConvModule one level down, under the name ``block``, where most checkpoint keys have it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        self.block = ConvModule(
            in_channels, out_channels, kernel, stride=stride, groups=groups, activation=activation
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y


conv_relu = partial(WrappedConv, activation=nn.ReLU)
conv_silu = partial(WrappedConv, activation=nn.SiLU)
conv_hardswish = partial(WrappedConv, activation=nn.Hardswish)
conv_linear = partial(WrappedConv, activation=None)


class RepVGGBlock(nn.Module):
    """ReLU(BN(conv3x3) + BN(conv1x1) + BN(x)); the last branch only where the shape is kept.

    Source: RepVGG, arXiv 2101.03697, section 3.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.rbr_dense = ConvModule(in_channels, out_channels, 3, stride=stride)
        self.rbr_1x1 = ConvModule(in_channels, out_channels, 1, stride=stride)
        keeps_shape = in_channels == out_channels and stride == 1
        self.rbr_identity = batch_norm(in_channels) if keeps_shape else None
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        if self.rbr_identity is not None:
            y = y + self.rbr_identity(x)
        activated: Tensor = self.act(y)
        return activated


class QARepVGGBlock(nn.Module):
    """ReLU(BN(BN(conv3x3) + conv1x1 + x)); version 2 (``averaged``) adds a 3x3 mean of x.

    The mean counts the zero padding. Source: QARepVGG, arXiv 2212.01593, section 4.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, averaged: bool = False
    ) -> None:
        super().__init__()
        self.rbr_dense = ConvModule(in_channels, out_channels, 3, stride=stride)
        self.rbr_1x1 = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.has_identity = in_channels == out_channels and stride == 1
        self.rbr_avg = nn.AvgPool2d(3, stride, 1) if averaged and self.has_identity else None
        self.bn = batch_norm(out_channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        if self.has_identity:
            y = y + x
        if self.rbr_avg is not None:
            y = y + self.rbr_avg(x)
        activated: Tensor = self.act(self.bn(y))
        return activated


class RealVGGBlock(nn.Module):
    """ReLU(BN(conv3x3)), trained with gradients that imitate RepVGG's branches.

    Source: RepOptimizer, arXiv 2205.15242.
    """

    is_reparameterized = True

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn = batch_norm(out_channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class ScaleLayer(nn.Module):
    """Multiplies each channel by its own factor; ``weight`` has shape [C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(1, -1, 1, 1)


class LinearAddBlock(nn.Module):
    """ReLU(BN(a·conv3x3 + b·conv1x1 + c·x)) with a factor per channel and branch.

    The network in which RepOptimizer searches its constants. Source: arXiv 2205.15242, section 3.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.scale_conv = ScaleLayer(out_channels)
        self.conv_1x1 = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.scale_1x1 = ScaleLayer(out_channels)
        keeps_shape = in_channels == out_channels and stride == 1
        self.scale_identity = ScaleLayer(out_channels) if keeps_shape else None
        self.bn = batch_norm(out_channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.scale_conv(self.conv(x)) + self.scale_1x1(self.conv_1x1(x))
        if self.scale_identity is not None:
            y = y + self.scale_identity(x)
        activated: Tensor = self.act(self.bn(y))
        return activated


BLOCKS: Mapping[BlockKind, BlockFactory] = {
    "repvgg": RepVGGBlock,
    "qarepvgg": QARepVGGBlock,
    "qarepvggv2": partial(QARepVGGBlock, averaged=True),
    "repopt": RealVGGBlock,
    "hyper_search": LinearAddBlock,
    "conv_relu": conv_relu,
    "conv_silu": conv_silu,
}


class DPBlock(nn.Module):
    """Depthwise and pointwise convolution, each with bias, BatchNorm and hard-swish (Lite)."""

    def __init__(self, channels: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv_dw_1 = nn.Conv2d(
            channels, channels, kernel, stride, (kernel - 1) // 2, groups=channels
        )
        self.bn_1 = batch_norm(channels)
        self.act_1 = nn.Hardswish()
        self.conv_pw_1 = nn.Conv2d(channels, channels, 1)
        self.bn_2 = batch_norm(channels)
        self.act_2 = nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act_1(self.bn_1(self.conv_dw_1(x)))
        y: Tensor = self.act_2(self.bn_2(self.conv_pw_1(x)))
        return y
