"""Branch algebra: linear functions of one tensor as kernels, and their sum as one kernel.

All numbers are float64. A sum is taken branch by branch in the order of the network's own
additions, and a BatchNorm behind a sum is applied to the sum: the result depends on the network
alone, bit for bit.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import gcd
from typing import cast

import torch
from torch import Tensor, fx, nn

Pair = tuple[int, int]


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

    def normalized(self, norm: nn.BatchNorm2d) -> Kernel:
        """This convolution followed by a BatchNorm in evaluation mode."""
        mean = cast(Tensor, norm.running_mean).double()
        scaled = Kernel(self.weight, self.bias - mean).scaled(_factors(norm))
        return Kernel(scaled.weight, scaled.bias + norm.bias.double()) if norm.affine else scaled


@dataclass(frozen=True)
class Branch:
    """A linear function of the tensor ``source``; ``kernel`` has the given geometry.

    ``paths`` are the modules that compute it, in order: one path, or those of several branches that
    were added up; a bare identity's path is empty. ``convolution`` is the module path of its
    largest convolution, None if it has none.
    """

    source: fx.Node
    kernel: Kernel
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    paths: tuple[tuple[str, ...], ...] = ((),)
    convolution: str | None = None

    @property
    def kernel_hw(self) -> Pair:
        """Height and width of the kernel."""
        height, width = self.kernel.weight.shape[2:]
        return height, width

    @property
    def channels(self) -> Pair:
        """Outputs and inputs."""
        outputs, inputs = self.kernel.weight.shape[:2]
        return outputs, inputs * self.groups

    @property
    def modules(self) -> tuple[str, ...]:
        """The paths of all modules that compute it."""
        return tuple(module for path in self.paths for module in path)

    @property
    def geometry(self) -> tuple[Pair, Pair, tuple[int, ...]]:
        """What branches of a sum share: channels, stride, and by how much the output outgrows the
        input at stride 1. With equal channels nothing in the sum is broadcast.
        """
        margins = (
            2 * p - d * (k - 1)
            for p, d, k in zip(self.padding, self.dilation, self.kernel_hw, strict=True)
        )
        return self.channels, self.stride, tuple(margins)

    def through(self, module: str, kernel: Kernel) -> Branch:
        """The same branch with ``module`` behind it, which makes its kernel ``kernel``."""
        return replace(self, kernel=kernel, paths=tuple((*path, module) for path in self.paths))


def identity(source: fx.Node, channels: int) -> Branch:
    """The tensor itself, as a depthwise 1x1 convolution."""
    weight = torch.ones(channels, 1, 1, 1, dtype=torch.float64)
    kernel = Kernel(weight, torch.zeros(channels, dtype=torch.float64))
    return Branch(source, kernel, groups=channels)


def scaled(branches: Sequence[Branch], factors: Tensor) -> list[Branch]:
    """Every branch times a factor per channel, [C]."""
    return [replace(branch, kernel=branch.kernel.scaled(factors)) for branch in branches]


def normalized(branches: Sequence[Branch], path: str, norm: nn.BatchNorm2d) -> list[Branch]:
    """A BatchNorm, of that module path, behind the sum of the branches.

    Where they do not line up it scales each of them, and its shift belongs to the first.
    """
    whole = merged(branches)
    first, *others = branches if whole is None else [whole]
    factors = _factors(norm)
    return [
        first.through(path, first.kernel.normalized(norm)),
        *(branch.through(path, branch.kernel.scaled(factors)) for branch in others),
    ]


def merged(branches: Sequence[Branch]) -> Branch | None:
    """The sum of all branches as one; None if they read different tensors or do not line up.

    Also None if the sum needs fewer groups than its largest kernel has: it would cost more.
    """
    widest = max(branches, key=lambda each: (max(each.kernel_hw), each.convolution is not None))
    groups = reduce(gcd, (branch.groups for branch in branches))
    if widest.convolution and widest.groups != groups:
        return None
    kernels = [_enlarged(branch, widest, groups) for branch in branches]
    if any(kernel is None for kernel in kernels):
        return None
    convolutions = (branch.convolution for branch in (widest, *branches))
    return replace(
        widest,
        kernel=reduce(operator.add, cast(list[Kernel], kernels)),
        groups=groups,
        paths=tuple(path for branch in branches for path in branch.paths),
        convolution=next(filter(None, convolutions), None),
    )


def _factors(norm: nn.BatchNorm2d) -> Tensor:
    """What a BatchNorm in evaluation mode multiplies each channel by: float64 [C]."""
    deviations = (cast(Tensor, norm.running_var).double() + norm.eps).sqrt()
    return norm.weight.double() / deviations if norm.affine else 1.0 / deviations


def _enlarged(branch: Branch, widest: Branch, groups: int) -> Kernel | None:
    """The kernel of ``branch`` with the taps, dilation and groups of ``widest``."""
    if branch.source is not widest.source or branch.geometry != widest.geometry:
        return None
    taps = list[list[int]]()
    for axis in (0, 1):
        step, before = widest.dilation[axis], widest.padding[axis] - branch.padding[axis]
        places = [
            divmod(tap * branch.dilation[axis] + before, step)
            for tap in range(branch.kernel_hw[axis])
        ]
        if any(rest or not 0 <= place < widest.kernel_hw[axis] for place, rest in places):
            return None
        taps.append([place for place, _ in places])
    narrow = _regrouped(branch.kernel.weight, branch.groups, groups)
    if taps == [list(range(side)) for side in widest.kernel_hw]:
        return Kernel(narrow, branch.kernel.bias)
    weight = narrow.new_zeros(*narrow.shape[:2], *widest.kernel_hw)
    weight[:, :, torch.tensor(taps[0])[:, None], torch.tensor(taps[1])] = narrow
    return Kernel(weight, branch.kernel.bias)


def _regrouped(weight: Tensor, groups: int, fewer: int) -> Tensor:
    """[O, I/groups, kH, kW] -> [O, I/fewer, kH, kW]: zeros between the groups that are joined."""
    joined = groups // fewer
    if joined == 1:
        return weight
    outputs, inputs = weight.shape[:2]
    wide = weight.new_zeros(outputs, joined, inputs, *weight.shape[2:])
    place = torch.arange(outputs) // (outputs // groups) % joined
    wide[torch.arange(outputs), place] = weight
    return wide.flatten(1, 2)
