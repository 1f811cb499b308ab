"""What YOLOv6 builds from its convolution units: stages, pyramid pooling, fusion of levels.

Attribute names are the key names of YOLOv6 checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detq.models.architecture import Merge, Stage, StageKind
from detq.models.blocks import (
    BLOCKS,
    BlockFactory,
    BlockKind,
    ConvModule,
    conv_relu,
    conv_silu,
)


def build_stage(kind: StageKind, block: BlockKind, in_channels: int, stage: Stage) -> nn.Module:
    """The module of one stage: [B, in, H, W] -> [B, stage.channels, H, W]."""
    if kind == "rep":
        return RepBlock(BLOCKS[block], in_channels, stage.channels, stage.depth)
    if kind == "csp":
        return BepC3(block, in_channels, stage)
    return MBLABlock(block, in_channels, stage)


class BottleRep(nn.Module):
    """``length`` blocks in a row, plus the input times a learned factor: [B, C, H, W] -> same.

    The sum comes after the last activation; none follows it.
    """

    def __init__(self, block: BlockFactory, channels: int, *, length: int = 2) -> None:
        super().__init__()
        self.length = length
        for index in range(1, length + 1):
            self.add_module(f"conv{index}", block(channels, channels))
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for index in range(1, self.length + 1):
            y = self.get_submodule(f"conv{index}")(y)
        return y + self.alpha * x


class RepBlock(nn.Module):
    """``depth`` units in a row; the first one changes the channel count."""

    def __init__(self, unit: BlockFactory, in_channels: int, out_channels: int, depth: int) -> None:
        super().__init__()
        self.conv1 = unit(in_channels, out_channels)
        rest = [unit(out_channels, out_channels) for _ in range(depth - 1)]
        self.block = nn.Sequential(*rest) if rest else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv1(x)
        return y if self.block is None else self.block(y)


class BepC3(nn.Module):
    """Cross-stage-partial stage: half of it is a chain of BottleReps, half one 1x1 convolution."""

    def __init__(self, block: BlockKind, in_channels: int, stage: Stage) -> None:
        super().__init__()
        conv = conv_silu if block == "conv_silu" else conv_relu

        def bottleneck(channels: int, _: int) -> nn.Module:
            return BottleRep(BLOCKS[block], channels)

        self.cv1 = conv(in_channels, stage.hidden, 1)
        self.cv2 = conv(in_channels, stage.hidden, 1)
        self.cv3 = conv(2 * stage.hidden, stage.channels, 1)
        self.m = RepBlock(bottleneck, stage.hidden, stage.hidden, stage.depth)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))
        return y


class MBLABlock(nn.Module):
    """Multi-branch stage: chains of three-block BottleReps whose every step is kept.

    ``stage.depth`` is the length of the longest chain.
    """

    def __init__(self, block: BlockKind, in_channels: int, stage: Stage) -> None:
        super().__init__()
        activation = nn.SiLU if block == "conv_silu" else nn.ReLU
        lengths = branch_lengths(stage.depth)
        self.hidden = hidden = stage.hidden
        kept = len(lengths) + sum(lengths)
        self.cv1 = ConvModule(in_channels, len(lengths) * hidden, 1, activation=activation)
        self.m = nn.ModuleList(
            nn.Sequential(*(BottleRep(BLOCKS[block], hidden, length=3) for _ in range(length)))
            for length in lengths[1:]
        )
        self.cv2 = ConvModule(kept * hidden, stage.channels, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.split(self.cv1(x), self.hidden, dim=1)  # each [B, hidden, H, W]
        kept = [pieces[0]]
        for index, chain in enumerate(self.m, start=1):
            kept.append(pieces[index])
            for unit in chain.children():
                kept.append(unit(kept[-1]))
        joined: Tensor = self.cv2(torch.cat(kept, dim=1))
        return joined


def branch_lengths(longest: int) -> tuple[int, ...]:
    """Chain lengths of an MBLABlock: 0, the largest power of two below ``longest``, ``longest``."""
    if longest == 1:
        return (0, 1)
    return (0, 1 << ((longest - 1).bit_length() - 1), longest)


def build_merge(merge: Merge, channels: int, conv: BlockFactory) -> nn.Module:
    """The pyramid pooling at the end of the backbone: [B, C, H, W] -> same shape."""
    return SPPF(channels, conv) if merge == "sppf" else CSPSPPF(channels, conv)


class SPPF(nn.Module):
    """Pyramid pooling under the name ``sppf``, where the checkpoint keys have it."""

    def __init__(self, channels: int, conv: BlockFactory) -> None:
        super().__init__()
        self.sppf = SPPFModule(channels, conv)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.sppf(x)
        return y


class SPPFModule(nn.Module):
    """Three 5x5 max poolings in a row; all four scales are joined."""

    def __init__(self, channels: int, conv: BlockFactory) -> None:
        super().__init__()
        half = channels // 2
        self.cv1 = conv(channels, half, 1)
        self.cv2 = conv(4 * half, channels, 1)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cv2(_pool_pyramid(self.cv1(x), self.m))
        return y


class CSPSPPF(nn.Module):
    """Cross-stage-partial pooling under the name ``cspsppf``, where the keys have it."""

    def __init__(self, channels: int, conv: BlockFactory) -> None:
        super().__init__()
        self.cspsppf = CSPSPPFModule(channels, conv)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cspsppf(x)
        return y


class CSPSPPFModule(nn.Module):
    """Pyramid pooling on one half of the channels, a plain 1x1 convolution on the other."""

    def __init__(self, channels: int, conv: BlockFactory) -> None:
        super().__init__()
        half = channels // 2
        self.cv1 = conv(channels, half, 1)
        self.cv2 = conv(channels, half, 1)
        self.cv3 = conv(half, half, 3)
        self.cv4 = conv(half, half, 1)
        self.m = nn.MaxPool2d(5, 1, 2)
        self.cv5 = conv(4 * half, half, 1)
        self.cv6 = conv(half, half, 3)
        self.cv7 = conv(2 * half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _pool_pyramid(self.cv4(self.cv3(self.cv1(x))), self.m)
        y: Tensor = self.cv7(torch.cat((self.cv2(x), self.cv6(self.cv5(pooled))), dim=1))
        return y


def _pool_pyramid(x: Tensor, pool: nn.Module) -> Tensor:
    """x pooled zero to three times: [B, C, H, W] -> [B, 4C, H, W]."""
    scales = [x]
    for _ in range(3):
        scales.append(pool(scales[-1]))
    return torch.cat(scales, dim=1)


class Transpose(nn.Module):
    """Learned up-sampling, with bias and without activation: [B, C, H, W] -> [B, C, 2H, 2W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.upsample_transpose = nn.ConvTranspose2d(channels, channels, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.upsample_transpose(x)
        return y


class BiFusion(nn.Module):
    """Joins three neighbouring levels at the middle one.

    (coarse [B, out, H/2, W/2], same [B, p, H, W], fine [B, q, 2H, 2W]) -> [B, out, H, W].
    """

    def __init__(self, same_channels: int, fine_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upsample = Transpose(out_channels)
        self.cv1 = conv_relu(same_channels, out_channels, 1)
        self.cv2 = conv_relu(fine_channels, out_channels, 1)
        self.downsample = conv_relu(out_channels, out_channels, 3, stride=2)
        self.cv3 = conv_relu(3 * out_channels, out_channels, 1)

    def forward(self, coarse: Tensor, same: Tensor, fine: Tensor) -> Tensor:
        levels = (self.upsample(coarse), self.cv1(same), self.downsample(self.cv2(fine)))
        y: Tensor = self.cv3(torch.cat(levels, dim=1))
        return y
