"""The statistic that weights are rounded by: the second moments of each layer's inputs.

The change ``d`` of a kernel changes its output by ``d^T H d`` on average, with ``H = E[x x^T]``
over what the kernel covers; half the Hessian of that error is ``H``, hence the name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import openvino as ov
from numpy.lib.stride_tricks import sliding_window_view

from detq.cores import core_count
from detq.graph.layers import ConvLayer
from detq.numerics.cfws import paired_channels
from detq.numerics.gptq import Indices, round_with_feedback
from detq.quant.network import Image
from detq.quant.observation import FloatNetwork, NotKept, Statistics

Hessian = npt.NDArray[np.float32]
Weight = npt.NDArray[np.floating]
Result = TypeVar("Result")

PATCHES_PER_IMAGE = 128
"""Input patches drawn from each image; their moments are exact enough."""
BLOCK_INPUTS = 576
"""At most so many inputs (channels times taps) share their errors out: cost grows as its cube."""


@dataclass(frozen=True)
class KernelBlocks:
    """How a convolution's kernels meet its input, in blocks whose inputs are rounded together.

    ``outputs`` are the output channels of one group, ``channels`` the input channels of each block.
    """

    name: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    dilations: tuple[int, int]
    outputs: int
    channels: tuple[tuple[int, int], ...]
    grouped: bool

    @property
    def taps(self) -> int:
        """Pixels that a kernel covers."""
        return self.kernel[0] * self.kernel[1]

    @property
    def inputs(self) -> list[int]:
        """Inputs of each block: channels times taps."""
        return [(stop - start) * self.taps for start, stop in self.channels]

    @property
    def size_bytes(self) -> int:
        """What the Hessians of all blocks take."""
        return sum(4 * size * size for size in self.inputs)


def blocks_of(layer: ConvLayer) -> KernelBlocks:
    """How a layer is rounded: its kernels in blocks of inputs that belong together.

    Those of a (Group)Convolution, or of a transposed one that tiles.
    """
    shape = list(layer.convolution.get_input_shape(1))
    if layer.is_tiling:
        return _blocks_of_tiles(layer.name, shape)
    attributes = layer.convolution.get_attributes()
    groups, outputs, per_group = shape[:3] if layer.is_grouped else (1, shape[0], shape[1])
    width = per_group
    if not layer.is_grouped:
        width = max(1, BLOCK_INPUTS // (shape[-2] * shape[-1])) // 2 * 2
    channels = [
        (group * per_group + start, group * per_group + min(start + width, per_group))
        for group in range(groups)
        for start in range(0, per_group, width or 1)
    ]
    begin, end = attributes["pads_begin"], attributes["pads_end"]
    return KernelBlocks(
        name=layer.name,
        kernel=layer.kernel,
        strides=tuple(attributes["strides"]),
        pads=((begin[0], end[0]), (begin[1], end[1])),
        dilations=tuple(attributes["dilations"]),
        outputs=outputs,
        channels=tuple(channels),
        grouped=layer.is_grouped,
    )


def _blocks_of_tiles(name: str, shape: Sequence[int]) -> KernelBlocks:
    """Of kernels (I, O, kH, kW): as many 1x1 kernels as there are taps, of the same input."""
    inputs, *outputs = shape
    channels = [
        (start, min(start + BLOCK_INPUTS, inputs)) for start in range(0, inputs, BLOCK_INPUTS)
    ]
    none = (0, 0)
    rows = int(np.prod(outputs))
    return KernelBlocks(
        name, (1, 1), (1, 1), (none, none), (1, 1), rows, tuple(channels), grouped=False
    )


@dataclass(frozen=True)
class Hessians(NotKept):
    """Of one layer; a :class:`~detq.quant.observation.Want`.

    The result is the mean second moments of each of its blocks, (n, n).
    """

    layer: KernelBlocks
    purpose: str
    images: int | None

    @property
    def size_bytes(self) -> int:
        """What they take in memory."""
        return self.layer.size_bytes

    def observer(self, network: FloatNetwork) -> _Sum:
        """What adds up."""
        return _Sum(self.layer, network.node(self.layer.name).input_value(0))


def hessians(layers: Sequence[ConvLayer], purpose: str, images: int) -> list[Hessians]:
    """A want for each of some layers."""
    return [Hessians(blocks_of(layer), purpose, images) for layer in layers]


def map_layers(
    function: Callable[[KernelBlocks, list[Hessian]], Result],
    statistics: Statistics,
    wants: Sequence[Hessians],
) -> Iterator[Result]:
    """What ``function`` makes of each layer's Hessians, in order; several at a time.

    They are taken a few at a time, for they are large.
    """
    cores = core_count()
    with ThreadPoolExecutor(cores) as pool:
        for start in range(0, len(wants), 2 * cores):
            some = wants[start : start + 2 * cores]
            layers = [want.layer for want in some]
            yield from pool.map(function, layers, [statistics.take(want) for want in some])


class _Sum:
    """Adds up the second moments of patches drawn from the input of a layer."""

    def __init__(self, layer: KernelBlocks, source: ov.Output) -> None:
        self.outputs = [source]
        self._layer = layer
        self._random = np.random.default_rng(0)
        self._count = 0
        self._total = [np.zeros((size, size), np.float32) for size in layer.inputs]

    def update(self, values: Sequence[Image]) -> None:
        """The input of the layer."""
        patches = _patches(values[0][0], self._layer, self._random)
        self._count += len(patches)
        for block, (start, stop) in enumerate(self._layer.channels):
            inputs = patches[:, start:stop].reshape(len(patches), -1)
            self._total[block] += inputs.T @ inputs

    def result(self) -> list[Hessian]:
        """The means."""
        return [total / np.float32(self._count) for total in self._total]


def _patches(tensor: Image, layer: KernelBlocks, random: np.random.Generator) -> Image:
    """[C, H, W] -> (P, C, kH, kW): what the kernel covers at P random output pixels."""
    padded = np.pad(tensor, ((0, 0), *layer.pads))
    (height, width), (down, right) = layer.kernel, layer.dilations
    window = ((height - 1) * down + 1, (width - 1) * right + 1)
    views = sliding_window_view(padded, window, axis=(1, 2))
    views = views[:, :: layer.strides[0], :: layer.strides[1], ::down, ::right]
    rows, columns = views.shape[1:3]
    count = min(PATCHES_PER_IMAGE, rows * columns)
    chosen = random.choice(rows * columns, count, replace=False)
    return np.ascontiguousarray(views[:, chosen // columns, chosen % columns].swapaxes(0, 1))


def gptq_weight(
    layer: KernelBlocks,
    weight: Weight,
    step: Weight,
    seen: list[Hessian],
    *,
    bits: int,
    limit_pairs: bool,
) -> Weight:
    """The weight (any convolution's shape) on the grid of ``step``, rounded by GPTQ."""
    steps = np.broadcast_to(step, (*weight.shape[:-3], 1, 1, 1))
    rounded = np.empty(weight.shape, np.float32)
    for where, channels, hessian in _blocks(layer, seen):
        block = weight[where].reshape(layer.outputs, -1)
        own_step = steps[where[0]].reshape(layer.outputs, 1).astype(np.float64)
        integers = round_with_feedback(
            block,
            own_step,
            hessian,
            largest=2 ** (bits - 1) - 1,
            partners=_partners(channels, layer.taps) if limit_pairs else None,
        )
        rounded[where] = (integers * own_step).reshape(rounded[where].shape)
    return rounded


def output_noise(layer: KernelBlocks, difference: Weight, seen: list[Hessian]) -> Weight:
    """Mean square, per output channel of a group, of what a change of weights does to the output.

    Correlations between blocks of one kernel are left out.
    """
    noise = np.zeros((len(seen) if layer.grouped else 1, layer.outputs), np.float64)
    for index, (where, _, hessian) in enumerate(_blocks(layer, seen)):
        block = difference[where].reshape(layer.outputs, -1).astype(np.float64)
        noise[index if layer.grouped else 0] += np.einsum("oi,oi->o", block @ hessian, block)
    return noise


def _blocks(
    layer: KernelBlocks, seen: list[Hessian]
) -> Iterator[tuple[tuple[int | slice, ...], int, Hessian]]:
    """For each block: where in the weight it is, how many input channels, and its Hessian."""
    for index, ((start, stop), hessian) in enumerate(zip(layer.channels, seen, strict=True)):
        where = (index,) if layer.grouped else (slice(None), slice(start, stop))
        yield where, stop - start, hessian


def _partners(channels: int, taps: int) -> Indices:
    """(P, channels * taps): each input's partners, those of its channel at the same tap, or -1."""
    other = paired_channels(channels)[:, :, None]
    return np.where(other >= 0, other * taps + np.arange(taps), -1).reshape(len(other), -1)
