"""YOLOv6-Lite: depthwise blocks with squeeze-excite and hard-swish.

Attribute names are the key names of YOLOv6 checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from detq.models.architecture import LiteArchitecture
from detq.models.blocks import DPBlock, conv_hardswish, conv_linear


class SEBlock(nn.Module):
    """Squeeze-excite: scales each channel of [B, C, H, W] by a factor in 0..1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 4, 1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels // 4, channels, 1)
        self.hardsigmoid = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)  # [B, C, 1, 1]
        factors: Tensor = self.hardsigmoid(self.conv2(self.relu(self.conv1(mean))))
        return x * factors


class EffiBlockS1(nn.Module):
    """Half of the channels passes through, half is convolved; then both interleave.

    [B, C, H, W] -> same shape.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.kept_channels = half = channels // 2
        self.conv_pw_1 = conv_hardswish(half, hidden, 1)
        self.conv_dw_1 = conv_linear(hidden, hidden, 3, groups=hidden)
        self.se = SEBlock(hidden)
        self.conv_1 = conv_hardswish(hidden, half, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = torch.split(x, self.kept_channels, dim=1)
        changed = self.conv_1(self.se(self.conv_dw_1(self.conv_pw_1(changed))))
        return torch.stack((kept, changed), dim=2).flatten(1, 2)  # a0 b0 a1 b1 …


class EffiBlockS2(nn.Module):
    """Halves the resolution: [B, in, H, W] -> [B, out, H/2, W/2]."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int) -> None:
        super().__init__()
        half, inner = out_channels // 2, hidden // 2
        self.conv_dw_1 = conv_linear(in_channels, in_channels, 3, stride=2, groups=in_channels)
        self.conv_1 = conv_hardswish(in_channels, half, 1)
        self.conv_pw_2 = conv_hardswish(in_channels, inner, 1)
        self.conv_dw_2 = conv_linear(inner, inner, 3, stride=2, groups=inner)
        self.se = SEBlock(inner)
        self.conv_2 = conv_hardswish(inner, half, 1)
        self.conv_dw_3 = conv_hardswish(out_channels, out_channels, 3, groups=out_channels)
        self.conv_pw_3 = conv_hardswish(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_1(self.conv_dw_1(x))
        second = self.conv_2(self.se(self.conv_dw_2(self.conv_pw_2(x))))
        y: Tensor = self.conv_pw_3(self.conv_dw_3(torch.cat((first, second), dim=1)))
        return y


class LiteBackbone(nn.Module):
    """[B, 3, H, W] -> list of maps at strides 8, 16, 32 (P3, P4, P5)."""

    def __init__(self, architecture: LiteArchitecture) -> None:
        super().__init__()
        width = architecture.stem_channels
        self.conv_0 = conv_hardswish(3, width, 3, stride=2)
        for index, stage in enumerate(architecture.backbone, start=1):
            blocks: list[nn.Module] = [EffiBlockS2(width, stage.hidden, stage.channels)]
            blocks += [EffiBlockS1(stage.channels, stage.hidden) for _ in range(stage.depth - 1)]
            self.add_module(f"lite_effiblock_{index}", nn.Sequential(*blocks))
            width = stage.channels

    def forward(self, images: Tensor) -> list[Tensor]:
        x: Tensor = self.conv_0(images)
        levels = []
        for index in range(1, 5):
            x = self.get_submodule(f"lite_effiblock_{index}")(x)
            levels.append(x)
        return levels[1:]


class DarknetBlock(nn.Module):
    """A 1x1 convolution and a depthwise block, without a residual sum."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv_1 = conv_hardswish(channels, channels, 1)
        self.conv_2 = DPBlock(channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_2(self.conv_1(x))
        return y


class CSPBlock(nn.Module):
    """Cross-stage-partial block: [B, in, H, W] -> [B, out, H, W]."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv_1 = conv_hardswish(in_channels, half, 1)
        self.conv_2 = conv_hardswish(in_channels, half, 1)
        self.conv_3 = conv_hardswish(2 * half, out_channels, 1)
        self.blocks = DarknetBlock(half, kernel)

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.blocks(self.conv_1(x)), self.conv_2(x))
        y: Tensor = self.conv_3(torch.cat(branches, dim=1))
        return y


class LiteNeck(nn.Module):
    """List (P3, P4, P5) -> list at strides 8, 16, 32, 64, all of one width."""

    def __init__(self, architecture: LiteArchitecture) -> None:
        super().__init__()
        width = architecture.neck_channels
        p3, p4, p5 = (stage.channels for stage in architecture.backbone[1:])
        self.reduce_layer0 = conv_hardswish(p5, width, 1)
        self.reduce_layer1 = conv_hardswish(p4, width, 1)
        self.reduce_layer2 = conv_hardswish(p3, width, 1)
        self.Csp_p4 = CSPBlock(2 * width, width, 5)
        self.Csp_p3 = CSPBlock(2 * width, width, 5)
        self.Csp_n3 = CSPBlock(2 * width, width, 5)
        self.Csp_n4 = CSPBlock(2 * width, width, 5)
        self.downsample2 = DPBlock(width, 5, stride=2)
        self.downsample1 = DPBlock(width, 5, stride=2)
        self.p6_conv_1 = DPBlock(width, 5, stride=2)
        self.p6_conv_2 = DPBlock(width, 5, stride=2)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        p3, p4, p5 = features
        fine, middle, coarse = (
            self.reduce_layer2(p3),
            self.reduce_layer1(p4),
            self.reduce_layer0(p5),
        )
        middle = self.Csp_p4(torch.cat((_double(coarse), middle), dim=1))
        stride8 = self.Csp_p3(torch.cat((_double(middle), fine), dim=1))
        stride16 = self.Csp_n3(torch.cat((self.downsample2(stride8), middle), dim=1))
        stride32 = self.Csp_n4(torch.cat((self.downsample1(stride16), coarse), dim=1))
        stride64 = self.p6_conv_1(coarse) + self.p6_conv_2(stride32)
        return [stride8, stride16, stride32, stride64]


def _double(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, 2H, 2W] by repetition."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
