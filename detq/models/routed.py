"""Networks that are a numbered list of layers, each of which says whose outputs it reads.

The layers are anybody's modules; the heads here replace their program's own, whose forward does
more than inference needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detq.models.heads import DistanceDecode, plain_size

INPUT = -1
"""The layer number of the image."""
Route = tuple[tuple[int, ...], bool]
"""The layers that one reads, and whether it takes them as a list."""


@dataclass(frozen=True)
class RoutedModule:
    """``module`` reads what the layers ``sources`` give: one tensor, or a list if ``listed``."""

    module: nn.Module
    sources: tuple[int, ...]
    listed: bool


class RoutedNetwork(nn.Module):
    """Backbone, neck and head by layer number: images [B, 3, H, W] -> predictions [B, 4+nc, N].

    Module paths are ``backbone.0``, …, ``neck.10``, …, ``head.22``: a number counts all layers.
    """

    def __init__(self, layers: Sequence[RoutedModule], *, backbone_count: int) -> None:
        super().__init__()
        self.routes = tuple((layer.sources, layer.listed) for layer in layers)
        modules = {str(index): layer.module for index, layer in enumerate(layers)}
        numbers = list(modules)
        self.backbone = nn.ModuleDict({key: modules[key] for key in numbers[:backbone_count]})
        self.neck = nn.ModuleDict({key: modules[key] for key in numbers[backbone_count:-1]})
        self.head = nn.ModuleDict({numbers[-1]: modules[numbers[-1]]})

    def forward(self, images: Tensor) -> Tensor:
        modules = [*self.backbone.values(), *self.neck.values(), *self.head.values()]
        predictions: Tensor = run_layers(modules, self.routes, images)[len(modules) - 1]
        return predictions


def run_layers(
    modules: Sequence[nn.Module], routes: Sequence[Route], images: Tensor
) -> dict[int, Any]:
    """What each layer gives, by its number."""
    outputs: dict[int, Any] = {INPUT: images}
    for index, ((sources, listed), module) in enumerate(zip(routes, modules, strict=True)):
        read = [outputs[source] for source in sources]
        outputs[index] = module(read) if listed else module(read[0])
    return outputs


class DistanceHead(nn.Module):
    """Per level a stack of layers for boxes and one for classes, then :class:`DistanceDecode`.

    ``bins`` is the number of values that a distance is a distribution over; 1 for plain distances.
    """

    def __init__(
        self,
        boxes: nn.ModuleList,
        classes: nn.ModuleList,
        strides: Sequence[int],
        *,
        bins: int,
    ) -> None:
        super().__init__()
        self.boxes = boxes
        self.classes = classes
        self.decode = DistanceDecode(strides, bins=bins)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        regressions = [self.boxes[level](feature) for level, feature in enumerate(features)]
        logits = [self.classes[level](feature) for level, feature in enumerate(features)]
        predictions: Tensor = self.decode(regressions, logits)
        return predictions


class QueryHead(nn.Module):
    """A DETR-like decoder, whose last layer gives the boxes of its queries in 0..1 of the image.

    ``decoder`` returns, second, boxes [1, B, N, 4] and class logits [1, B, N, nc]. The result is
    [B, 4+nc, N] as everywhere, N queries in no order. ``stride`` is that of the finest level.
    """

    def __init__(self, decoder: nn.Module, stride: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.stride = stride

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        height, width = (side * self.stride for side in plain_size(features[0]))
        _, (boxes, logits, *_) = self.decoder(list(features))
        pixels = boxes[0] * torch.tensor([width, height, width, height], dtype=boxes.dtype)
        return torch.cat((pixels, logits[0].sigmoid()), dim=2).transpose(1, 2)
