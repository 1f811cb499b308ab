"""Every official architecture at a width that tests can afford, with random weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from detq.models import AnyArchitecture, LiteArchitecture, Stage, YOLOv6Architecture, build
from detq.models.blocks import LinearAddBlock, QARepVGGBlock

torch.set_num_threads(1)  # more threads only cost time on tensors this small


def shrink(architecture: AnyArchitecture) -> AnyArchitecture:
    """The same structure with a sixteenth of the width and short stages."""

    def width(channels: int) -> int:
        return max(8, channels // 16 // 8 * 8)

    def stage(wide: Stage) -> Stage:
        return Stage(width(wide.channels), min(wide.depth, 3), min(wide.hidden, 5))

    if isinstance(architecture, LiteArchitecture):
        stages = tuple(replace(wide, depth=min(wide.depth, 2)) for wide in architecture.backbone)
        return replace(architecture, backbone=stages)
    assert isinstance(architecture, YOLOv6Architecture)
    return replace(
        architecture,
        stem_channels=8,
        backbone=tuple(stage(wide) for wide in architecture.backbone),
        top_down=tuple(stage(wide) for wide in architecture.top_down),
        downsample=tuple(width(channels) for channels in architecture.downsample),
        bottom_up=tuple(stage(wide) for wide in architecture.bottom_up),
    )


@torch.no_grad()
def randomize(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """Give every BatchNorm and factor values far from their initial ones; evaluation mode.

    Values are rounded to half precision, so that a checkpoint holds them exactly.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.weight.copy_(uniform(child.weight, 0.5, 1.5))
            child.bias.copy_(uniform(child.bias, -0.3, 0.3))
            child.running_mean.copy_(uniform(child.running_mean, -0.3, 0.3))
            child.running_var.copy_(uniform(child.running_var, 0.5, 2.0))
        elif isinstance(child, (nn.Conv2d, nn.ConvTranspose2d)):
            bound = 1.5 / (child.weight[0].numel() ** 0.5)
            child.weight.copy_(uniform(child.weight, -bound, bound))
            if child.bias is not None:
                child.bias.copy_(uniform(child.bias, -0.3, 0.3))
        else:
            for parameter in child.parameters(recurse=False):  # alpha, scale layers
                parameter.copy_(uniform(parameter, 0.5, 1.5))
    for child in module.modules():
        if isinstance(child, (QARepVGGBlock, LinearAddBlock)):
            child.bn.running_var.mul_(6)  # normalizes a sum of branches, as after training
    return module.half().float().eval().requires_grad_(False)


def small_network(architecture: AnyArchitecture, *, seed: int = 0) -> nn.Module:
    """A network of the given structure as :func:`shrink` and :func:`randomize` make it."""
    with torch.random.fork_rng():
        return randomize(build(shrink(architecture)), seed=seed)


def random_images(height: int, width: int, *, count: int = 1, seed: int = 0) -> torch.Tensor:
    """Images [count, 3, H, W] in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, 3, height, width), generator=generator)
