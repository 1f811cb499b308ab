"""Chains of quantized convolutions, learned to give what the float network gives behind them.

What rivals of detq's GPTQ and CFWS do with a chain, our own implementations in torch:

``adaround``
    Every weight learns whether it is rounded up or down, one convolution at a time, by the squared
    error behind its activation function (Nagel et al., arXiv 2004.10568).
``brecq``
    The same, for all convolutions of a chain together, by the error at its end (Li et al., arXiv
    2102.05426, without the Fisher weights; a re-parameterized block is one convolution, so that
    a chain is what the paper calls a stage).
``repapq``
    Nothing is learned about single weights: an affine layer behind every convolution, the steps of
    weights and of activations, by the absolute error at the end of the chain (RepAPQ, arXiv
    2402.16121). The affine layer is folded into the steps and the bias afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import openvino as ov
import torch
from torch import Tensor, nn
from torch.nn import functional

from detq.errors import GraphError
from detq.graph.layers import ConvLayer, Grid, grid_of, quantized_layers, symmetric_grid, write_grid
from detq.graph.surgery import (
    constant_input,
    constant_value,
    consumers,
    producer,
    replace_constant_input,
)
from detq.numerics.integer_range import Range

Method = Literal["adaround", "brecq", "repapq"]
ACTIVATIONS = {"Relu": functional.relu, "Swish": functional.silu}
LONGEST = 8
STRETCH = (-0.1, 1.1)
"""AdaRound's sigmoid reaches beyond 0 and 1, so that a weight can arrive at either."""
WARM_UP = 0.2
"""Share of the steps before weights are drawn to a side."""
ROUNDING_WEIGHT = 0.01
SHARPNESS = (20.0, 2.0)
"""The exponent of what draws them, at the start and at the end."""
RATES = {"adaround": 1e-2, "brecq": 1e-2, "repapq": 1e-3}
STEPS = {"adaround": 200, "brecq": 400, "repapq": 200}
BATCH = 8


@dataclass(frozen=True)
class Link:
    """A convolution of a chain: the FakeQuantize in front of it, and what is behind its bias."""

    layer: ConvLayer
    quantizer: ov.Node
    activation: str | None
    end: ov.Node


def chains(model: ov.Model, *, longest: int = LONGEST) -> list[list[Link]]:
    """Every quantized convolution once, in execution order; each reads the one before it alone."""
    links = {link.layer.name: link for link in _links(model)}
    found: list[list[Link]] = []
    followers = {name: _next(link, links) for name, link in links.items()}
    begun = set(links) - {link.layer.name for link in followers.values() if link}
    for name, link in links.items():
        if name not in begun:
            continue
        chain = [link]
        while follower := followers[chain[-1].layer.name]:
            chain.append(follower)
        found += [chain[start : start + longest] for start in range(0, len(chain), longest)]
    return found


def _links(model: ov.Model) -> Iterator[Link]:
    for layer in quantized_layers(model):
        above = producer(layer.convolution)
        if above.get_type_name() != "FakeQuantize" or grid_of(above) is None or layer.bias is None:
            continue
        users = consumers(layer.end)
        kind = users[0].get_type_name() if len(users) == 1 else ""
        acts = kind in ACTIVATIONS
        yield Link(layer, above, kind if acts else None, users[0] if acts else layer.end)


def _next(link: Link, links: dict[str, Link]) -> Link | None:
    """Who alone reads what a link gives."""
    users = consumers(link.end)
    if len(users) != 1 or users[0].get_type_name() != "FakeQuantize":
        return None
    readers = consumers(users[0])
    return links.get(readers[0].get_friendly_name()) if len(readers) == 1 else None


class _Rounded(torch.autograd.Function):
    """Rounds; its gradient is that of what it rounds."""

    @staticmethod
    def forward(_: object, values: Tensor) -> Tensor:
        return torch.round(values)

    @staticmethod
    def backward(_: object, *gradient: Tensor) -> Tensor:
        return gradient[0]


class LearnedConvolution(nn.Module):
    """A link as torch computes it, with what its method may change."""

    def __init__(self, link: Link, method: Method, *, is_inner: bool) -> None:
        super().__init__()
        layer, grid = link.layer, link.layer.grid
        seen = grid_of(link.quantizer)
        if grid is None or seen is None or layer.bias is None:
            raise GraphError(f"{layer.name}: is no link of a chain")
        self.link, self.method, self.largest = link, method, grid.largest
        self.levels, self.seen = grid.levels, seen
        kernels = torch.tensor(layer.kernels)
        self.groups = layer.weight.shape[0] if layer.is_grouped else 1
        attributes = layer.convolution.get_attributes()
        self.strides, self.pads = attributes["strides"], attributes["pads_begin"]
        step = torch.tensor(np.asarray(grid.step, np.float32).reshape(-1, 1, 1, 1))
        index = constant_input(layer.bias)
        bias = constant_value(producer(layer.bias, index or 0))
        self.bias = torch.tensor(np.asarray(bias, np.float32).reshape(-1))
        self.scaled, self.step = kernels / step, step
        self.learned: list[nn.Parameter] = []
        if method == "repapq":
            channels = len(kernels)
            self.gain, self.shift = self._new(torch.ones(channels)), self._new(0 * self.bias)
            self.widths = self._new(torch.zeros_like(step))
            self.reach = self._new(torch.zeros(())) if is_inner else torch.zeros(())
        else:
            rest = (self.scaled - torch.floor(self.scaled)).clamp(0.01, 0.99)
            low, high = STRETCH
            self.upward = self._new(-torch.log((high - low) / (rest - low) - 1))

    def _new(self, values: Tensor) -> nn.Parameter:
        self.learned.append(nn.Parameter(values))
        return self.learned[-1]

    @property
    def share(self) -> Tensor:
        """How far up each weight is rounded, 0..1."""
        low, high = STRETCH
        return (torch.sigmoid(self.upward) * (high - low) + low).clamp(0, 1)

    def integers(self, *, final: bool = False) -> Tensor:
        """The weights in steps, (O, I, kH, kW)."""
        if self.method == "repapq":
            rounded = _Rounded.apply(self.scaled / torch.exp(self.widths))
        else:
            share = (self.share > 0.5).float() if final else self.share
            rounded = torch.floor(self.scaled) + share
        return rounded.clamp(-self.largest, self.largest)

    def steps(self) -> Tensor:
        """Of the weights, (O, 1, 1, 1) or (1, 1, 1, 1)."""
        return self.step * torch.exp(self.widths) if self.method == "repapq" else self.step

    def forward(self, values: Tensor) -> Tensor:
        """[B, I, H, W] -> [B, O, H', W'], as the quantized network computes it."""
        low, step = float(self.seen.low.item()), float(self.seen.step.item())
        zero, top = round(-low / step), self.seen.levels - 1
        wide = step * (torch.exp(self.reach) if self.method == "repapq" else 1.0)
        inside = (_Rounded.apply(values / wide) + zero).clamp(0, top) - zero
        weight = self.integers() * self.steps()
        result = functional.conv2d(
            inside * wide, weight, self.bias, self.strides, self.pads, 1, self.groups
        )
        if self.method == "repapq":
            result = result * self.gain[:, None, None] + self.shift[:, None, None]
        return ACTIVATIONS[self.link.activation](result) if self.link.activation else result

    def drawn(self, sharpness: float) -> Tensor:
        """What grows with the weights that are on neither side."""
        return (1 - (2 * self.share - 1).abs().pow(sharpness)).sum()

    @torch.no_grad()
    def write(self) -> dict[str, Range]:
        """Let the graph compute what was learned; the new ranges of its activations."""
        layer = self.link.layer
        step, integers = self.steps(), self.integers(final=True)
        ranges = {}
        if self.method == "repapq":
            gain = self.gain.clamp(min=1e-3)
            shift = self.bias * (gain - 1) + self.shift
            step = step * gain.reshape(-1, 1, 1, 1)
            layer.add_to_bias(shift.numpy().reshape(1, -1, 1, 1))
            width = float(torch.exp(self.reach))
            seen = Grid(self.seen.low * width, self.seen.high * width, self.seen.levels)
            write_grid(self.link.quantizer, seen)
            ranges = {self.link.quantizer.get_friendly_name(): _range(seen)}
        shape = list(layer.weight.shape)
        wide = [*shape[: len(shape) - 3], 1, 1, 1] if step.numel() > 1 else [1] * len(shape)
        weight = (integers * step).numpy().reshape(shape)
        rounds = producer(layer.convolution, 1)
        write_grid(rounds, symmetric_grid(step.numpy().reshape(wide), self.levels))
        replace_constant_input(rounds, 0, weight)
        return ranges


def _range(grid: Grid) -> Range:
    return Range(float(grid.low.item()), float(grid.high.item()))


def learn(
    chain: Sequence[Link], method: Method, inputs: Tensor, targets: Tensor, seed: int
) -> dict[str, Range]:
    """Change what a chain computes, so that ``inputs`` [N, I, H, W], of the quantized network,
    become ``targets`` [N, O, H', W'], of the float network. New ranges of its activations.
    """
    layers = [LearnedConvolution(link, method, is_inner=link is not chain[0]) for link in chain]
    rates = RATES[method]
    optimizer = torch.optim.Adam([one for layer in layers for one in layer.learned], rates)
    random = torch.Generator().manual_seed(seed)
    steps = STEPS[method]
    for number in range(steps):
        batch = torch.randperm(len(inputs), generator=random)[:BATCH]
        values = inputs[batch]
        for layer in layers:
            values = layer(values)
        difference = values - targets[batch]
        if method == "repapq":
            loss = difference.abs().mean()
        else:
            loss = difference.square().sum(dim=1).mean()
            place = (number / steps - WARM_UP) / (1 - WARM_UP)
            if place > 0:
                sharpness = SHARPNESS[1] + (SHARPNESS[0] - SHARPNESS[1]) * (1 - place)
                loss = loss + ROUNDING_WEIGHT * sum(layer.drawn(sharpness) for layer in layers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: found for layer in layers for name, found in layer.write().items()}
