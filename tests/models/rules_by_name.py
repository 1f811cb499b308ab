"""Another way to fuse a YOLOv6 network: by the classes of its blocks, one rule for each.

It shares no code with ``detq.models.reparam``, which finds the same blocks by what they compute:
the two have to agree on every name and every bit of every weight. Linear algebra on kernels in
float64, stored as float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from detq.models.blocks import (
    ConvModule,
    DPBlock,
    LinearAddBlock,
    QARepVGGBlock,
    RealVGGBlock,
    RepVGGBlock,
)
from detq.records import Part, ReparamConvolution


@dataclass(frozen=True)
class Kernel:
    """A convolution as numbers: ``weight`` float64 [O, I/groups, kH, kW], ``bias`` float64 [O]."""

    weight: Tensor
    bias: Tensor

    def __add__(self, other: Kernel) -> Kernel:
        return Kernel(self.weight + other.weight, self.bias + other.bias)

    def scaled(self, factors: Tensor) -> Kernel:
        """Every output channel times its own factor [O]."""
        factors = factors.double()
        return Kernel(self.weight * factors.view(-1, 1, 1, 1), self.bias * factors)

    def widened(self) -> Kernel:
        """A 1x1 kernel as the centre of a 3x3 kernel."""
        return Kernel(functional.pad(self.weight, (1, 1, 1, 1)), self.bias)

    def normalized(self, bn: nn.BatchNorm2d) -> Kernel:
        """This convolution followed by a BatchNorm in evaluation mode."""
        mean, variance = cast(Tensor, bn.running_mean), cast(Tensor, bn.running_var)
        factors = bn.weight.double() / (variance.double() + bn.eps).sqrt()
        scaled = Kernel(self.weight, self.bias - mean.double()).scaled(factors)
        return Kernel(scaled.weight, scaled.bias + bn.bias.double())


@dataclass(frozen=True)
class FusedByName:
    """A fused network and the convolutions in it that several branches went into."""

    module: nn.Module
    reparameterized: tuple[ReparamConvolution, ...]


class FusedConvolution(nn.Module):
    """What is left of a block: one convolution with bias, and the activation."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.conv(x))
        return y


@torch.no_grad()
def fuse_by_name(model: nn.Module) -> FusedByName:
    """A new network that computes the same with one convolution in place of every block.

    ``model`` stays as it is and shares no weights with the result. The names of the
    re-parameterized convolutions are their module paths in the result.
    """
    module = copy.deepcopy(model).eval()
    reparameterized: list[ReparamConvolution] = []
    _replace_children(module, "", reparameterized)
    return FusedByName(module.requires_grad_(False), tuple(reparameterized))


def read_kernel(conv: nn.Conv2d) -> Kernel:
    """The numbers of a convolution, in float64; no bias counts as zeros."""
    weight = conv.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64) if conv.bias is None else conv.bias
    return Kernel(weight, bias.detach().double())


def identity_kernel(channels: int) -> Kernel:
    """The 3x3 convolution that returns its input: 1 at the centre of every (c, c)."""
    weight = torch.zeros(channels, channels, 3, 3, dtype=torch.float64)
    weight[range(channels), range(channels), 1, 1] = 1.0
    return Kernel(weight, torch.zeros(channels, dtype=torch.float64))


def mean_kernel(channels: int) -> Kernel:
    """The 3x3 mean of every channel, padding counted: 1/9 at all nine taps of (c, c)."""
    weight = torch.zeros(channels, channels, 3, 3, dtype=torch.float64)
    weight[range(channels), range(channels)] = 1.0 / 9.0
    return Kernel(weight, torch.zeros(channels, dtype=torch.float64))


def _replace_children(
    parent: nn.Module, path: str, reparameterized: list[ReparamConvolution]
) -> None:
    for name, child in parent.named_children():
        child_path = f"{path}.{name}" if path else name
        rule = _RULES.get(type(child))
        if rule is None:
            _replace_children(child, child_path, reparameterized)
            continue
        setattr(parent, name, rule(child))
        if isinstance(child, _REPARAMETERIZED):
            part = child_path.split(".", 1)[0]
            convolution = ReparamConvolution(
                f"{child_path}.conv", cast(Part, "head" if part == "detect" else part)
            )
            reparameterized.append(convolution)


def _fuse_conv_module(block: ConvModule) -> nn.Module:
    kernel = read_kernel(block.conv).normalized(block.bn)
    return FusedConvolution(_like(block.conv, kernel), block.act)


def _fuse_repvgg(block: RepVGGBlock) -> nn.Module:
    dense, narrow = block.rbr_dense, block.rbr_1x1
    kernel = read_kernel(dense.conv).normalized(dense.bn)
    kernel += read_kernel(narrow.conv).normalized(narrow.bn).widened()
    if block.rbr_identity is not None:
        kernel += identity_kernel(len(kernel.bias)).normalized(block.rbr_identity)
    return FusedConvolution(_like(dense.conv, kernel), block.act)


def _fuse_qarepvgg(block: QARepVGGBlock) -> nn.Module:
    dense = block.rbr_dense
    kernel = read_kernel(dense.conv).normalized(dense.bn)
    kernel += read_kernel(block.rbr_1x1).widened()
    if block.has_identity:
        kernel += identity_kernel(len(kernel.bias))
    if block.rbr_avg is not None:
        kernel += mean_kernel(len(kernel.bias))
    return FusedConvolution(_like(dense.conv, kernel.normalized(block.bn)), block.act)


def _fuse_realvgg(block: RealVGGBlock) -> nn.Module:
    kernel = read_kernel(block.conv).normalized(block.bn)
    return FusedConvolution(_like(block.conv, kernel), block.act)


def _fuse_linear_add(block: LinearAddBlock) -> nn.Module:
    kernel = read_kernel(block.conv).scaled(block.scale_conv.weight)
    kernel += read_kernel(block.conv_1x1).scaled(block.scale_1x1.weight).widened()
    if block.scale_identity is not None:
        kernel += identity_kernel(len(kernel.bias)).scaled(block.scale_identity.weight)
    return FusedConvolution(_like(block.conv, kernel.normalized(block.bn)), block.act)


def _fuse_depthwise(block: DPBlock) -> nn.Module:
    fused = copy.deepcopy(block)
    fused.conv_dw_1 = _like(block.conv_dw_1, read_kernel(block.conv_dw_1).normalized(block.bn_1))
    fused.conv_pw_1 = _like(block.conv_pw_1, read_kernel(block.conv_pw_1).normalized(block.bn_2))
    fused.register_module("bn_1", nn.Identity())
    fused.register_module("bn_2", nn.Identity())
    return fused


def _like(conv: nn.Conv2d, kernel: Kernel) -> nn.Conv2d:
    """A convolution with the geometry of ``conv`` and the numbers of ``kernel``."""
    fused = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        cast(tuple[int, int], conv.kernel_size),
        cast(tuple[int, int], conv.stride),
        cast(tuple[int, int], conv.padding),
        groups=conv.groups,
        device="meta",
    )
    fused.weight = nn.Parameter(kernel.weight.float())
    fused.bias = nn.Parameter(kernel.bias.float())
    return fused


_REPARAMETERIZED = (RepVGGBlock, QARepVGGBlock, RealVGGBlock, LinearAddBlock)
_RULES: Mapping[type[nn.Module], Callable[..., nn.Module]] = {
    ConvModule: _fuse_conv_module,
    RepVGGBlock: _fuse_repvgg,
    QARepVGGBlock: _fuse_qarepvgg,
    RealVGGBlock: _fuse_realvgg,
    LinearAddBlock: _fuse_linear_add,
    DPBlock: _fuse_depthwise,
}
