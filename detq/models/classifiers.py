"""Image classifiers that are a chain of re-parameterizable layers: RepVGG, RepVGGplus, MobileOne.

A layer sums parallel convolutions of its kernel size, a 1x1 convolution and its input, each with a
BatchNorm of its own, then comes an activation. Behind the chain stand the mean over all pixels and
one linear function. Sources: RepVGG, arXiv 2101.03697; MobileOne, arXiv 2206.04040.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from detq.contract import Task
from detq.errors import DetqError
from detq.models.architecture import MAX_WIDTH
from detq.records import Fit

RGB = tuple[float, float, float]
SqueezePlace = Literal["before", "after"]

IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)  # of RGB in 0..1, as every published model takes them
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Layer:
    """One layer of the chain; ``name`` is the module path that it has in the network.

    ``branches`` counts the convolutions of ``kernel`` x ``kernel``; ``pointwise`` and ``identity``
    say whether the other two stand beside them. A ``fused`` layer is one convolution with bias.
    ``squeeze`` is the inner width of squeeze and excite, 0 for none, which stands before or after
    the activation.
    """

    name: str
    in_channels: int
    channels: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    branches: int = 1
    pointwise: bool = True
    identity: bool = False
    fused: bool = False
    squeeze: int = 0
    squeeze_place: SqueezePlace = "before"

    def __post_init__(self) -> None:
        widths = (self.in_channels, self.channels, self.groups, self.stride)
        if not all(1 <= width <= MAX_WIDTH for width in widths) or self.kernel not in (1, 3, 5, 7):
            raise DetqError(
                f"{self.name}: widths and stride must be in 1..{MAX_WIDTH} and the kernel 1, 3, 5 "
                f"or 7; got {widths} and {self.kernel}"
            )
        if self.in_channels % self.groups or self.channels % self.groups:
            raise DetqError(
                f"{self.name}: {self.in_channels} and {self.channels} channels in {self.groups} "
                "groups"
            )
        if self.identity and (self.in_channels != self.channels or self.stride != 1):
            raise DetqError(f"{self.name}: an identity branch needs equal shapes")
        if not self.fused and not (self.branches or self.pointwise):
            raise DetqError(f"{self.name}: a layer needs a convolution")


@dataclass(frozen=True)
class ClassifierArchitecture:
    """A chain of layers, then ``class_count`` scores. ``mean`` and ``std`` normalise RGB 0..1."""

    layers: tuple[Layer, ...]
    class_count: int
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    task: ClassVar[Task] = "classify"
    end_to_end: ClassVar[bool] = False
    fit: ClassVar[Fit] = "yolov6"

    def __post_init__(self) -> None:
        if not self.layers or not 1 <= self.class_count <= MAX_WIDTH:
            raise DetqError("a classifier needs at least one layer and one class")
        if not all(deviation > 0 for deviation in self.std):
            raise DetqError(f"std must be positive, got {self.std}")
        for before, layer in zip(self.layers, self.layers[1:], strict=False):
            if layer.in_channels != before.channels:
                raise DetqError(
                    f"{layer.name}: reads {layer.in_channels} channels, {before.name} has "
                    f"{before.channels}"
                )

    @property
    def family(self) -> str:
        """What its blocks are: MobileOne has layers of 1x1 convolutions alone."""
        return "mobileone" if any(layer.kernel == 1 for layer in self.layers) else "repvgg"

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per cell of the last layer, as the only level."""
        return (math.prod(layer.stride for layer in self.layers),)


class NormedConv(nn.Module):
    """Convolution without bias, BatchNorm."""

    def __init__(self, layer: Layer, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            layer.in_channels,
            layer.channels,
            kernel,
            layer.stride,
            kernel // 2,
            groups=layer.groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(layer.channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y


class SqueezeExcite(nn.Module):
    """Every channel times a factor in 0..1 that depends on the means of all channels."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, hidden, 1)
        self.up = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        factors = self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(factors)


class ReparamLayer(nn.Module):
    """[B, in_channels, H, W] -> [B, channels, H/stride, W/stride]."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.is_reparameterized = layer.fused
        self.fused = self.pointwise = self.identity = None
        self.branches = nn.ModuleList()
        if layer.fused:
            self.fused = nn.Conv2d(
                layer.in_channels,
                layer.channels,
                layer.kernel,
                layer.stride,
                layer.kernel // 2,
                groups=layer.groups,
            )
        else:
            self.branches.extend(NormedConv(layer, layer.kernel) for _ in range(layer.branches))
            self.pointwise = NormedConv(layer, 1) if layer.pointwise else None
            self.identity = nn.BatchNorm2d(layer.channels) if layer.identity else None
        squeeze = SqueezeExcite(layer.channels, layer.squeeze) if layer.squeeze else None
        self.squeeze_before = squeeze if layer.squeeze_place == "before" else None
        self.squeeze_after = squeeze if layer.squeeze_place == "after" else None
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        terms = list(self._terms(x))
        y = terms[0]
        for term in terms[1:]:
            y = y + term
        if self.squeeze_before is not None:
            y = self.squeeze_before(y)
        activated: Tensor = self.act(y)
        if self.squeeze_after is not None:
            activated = self.squeeze_after(activated)
        return activated

    def _terms(self, x: Tensor) -> Iterator[Tensor]:
        for module in (self.fused, *self.branches, self.pointwise, self.identity):
            if module is not None:
                yield module(x)


class ChainClassifier(nn.Module):
    """Images [B, 3, H, W] (RGB, 0..1) -> scores [B, class_count] that add up to 1."""

    def __init__(self, architecture: ClassifierArchitecture) -> None:
        super().__init__()
        self.layer_names = [layer.name for layer in architecture.layers]
        for layer in architecture.layers:
            *path, last = layer.name.split(".")
            parent: nn.Module = self
            for name in path:
                if name not in parent._modules:
                    parent.add_module(name, nn.Module())
                parent = parent.get_submodule(name)
            parent.add_module(last, ReparamLayer(layer))
        self.linear = nn.Linear(architecture.layers[-1].channels, architecture.class_count)
        # Written out, so that they are numbers even where the weights are built as shapes only.
        self.mean, self.std = architecture.mean, architecture.std

    def forward(self, images: Tensor) -> Tensor:
        mean = torch.tensor(self.mean).view(1, 3, 1, 1)
        std = torch.tensor(self.std).view(1, 3, 1, 1)
        return torch.softmax(self.logits((images - mean) / std), 1)

    def logits(self, normalized: Tensor) -> Tensor:
        """What training works on: [B, 3, H, W] with mean 0 -> [B, class_count]."""
        x = normalized
        for name in self.layer_names:
            x = self.get_submodule(name)(x)
        y: Tensor = self.linear(x.mean((2, 3)))
        return y


def repvgg(
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    class_count: int,
    mean: RGB = IMAGENET_MEAN,
    std: RGB = IMAGENET_STD,
) -> ClassifierArchitecture:
    """A RepVGG of any size; the first entries are those of ``stage0``, which is one layer."""
    layers = list[Layer]()
    channels = 3
    for stage, (depth, width, stride) in enumerate(zip(depths, widths, strides, strict=True)):
        for block in range(depth):
            name = f"stage{stage}.{block}" if stage else "stage0"
            step = stride if block == 0 else 1
            keeps_shape = channels == width and step == 1
            layers.append(Layer(name, channels, width, stride=step, identity=keeps_shape))
            channels = width
    return ClassifierArchitecture(tuple(layers), class_count, mean, std)
