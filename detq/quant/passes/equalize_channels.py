"""Channel equalization: channels of one tensor brought to like ranges before they share a grid.

One step size for a whole tensor is set by its widest channel and coarse for all others. Dividing
each channel by a factor, and multiplying the weights that read it by the same, changes nothing in
float and lets narrow channels use more of the grid. The weights' own grids get coarser; how far to
go is worked out for every tensor from the noise of both.

The division is in the weights of the convolution before, through a ReLU too, leaky or not
(arXiv 1906.04721, section 4.1), where weights have a step for each output channel. Behind other
functions (SiLU) the runtime folds it into the quantizer (SmoothQuant, arXiv 2211.10438), which then
has a range for each channel. A 3x3 kernel that reads a zero point takes up to three times as long
then on CPUs with AMX (docs/performance.md), so behind such ones tensors are left alone, unless
nearly all of their noise would go.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.graph.layers import layer_of
from detq.graph.surgery import (
    CONVOLUTIONS,
    constant_input,
    constant_value,
    consumers,
    producer,
    producers,
    replace_constant_input,
    upstream,
)
from detq.quant.channel_ranges import ChannelRange, ChannelRanges, Vector
from detq.quant.network import Network, Stage
from detq.quant.pipeline import Seen
from detq.quant.shared_tensors import HANDED_ON, ReadTensor, tensors_that_share

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Exponents of the channels' ranges: 0 leaves a tensor alone, 1 makes all its channels alike."""
LEAST_GAIN = 0.1
"""Share of the predicted noise that must go for a tensor to be touched."""
LEAST_GAIN_AT_A_PRICE = 0.9
"""The same where the kernel before takes longer. PicoDet's first tensor, whose channels reach from
4 to 800, loses all but 0.6% of it, and the network's output error falls from 4.4 to 0.65."""
LEAST_FACTOR = 2.0**-8

_LEVELS = 255
_WEIGHT_LEVELS = 127


@dataclass(frozen=True)
class EqualizeChannels:
    """The same function with equalized channels where that removes noise.

    ``into_weights`` divides the weights before a tensor where that is the same; not for weights
    that share one step.
    """

    into_weights: bool = True
    name: ClassVar[str] = "equalize channels"
    stage: ClassVar[Stage] = Stage.FLOAT
    keeps_float: ClassVar[bool] = False

    def wants(self, network: Network) -> list[ChannelRanges]:
        """The range of every channel of the tensors that share a grid."""
        groups = tensors_that_share(network.model)
        return [ChannelRanges(tensor.name) for tensors in groups for tensor in tensors]

    def apply(self, network: Network, seen: Seen) -> Network:
        """Choose factors for each group of tensors, and divide."""
        model = network.model.clone()
        changed = 0
        groups = list(tensors_that_share(model))
        for tensors in groups:
            factors = _choose_factors(
                tensors,
                [seen.statistics.take(ChannelRanges(tensor.name)) for tensor in tensors],
                [_is_free(tensor) for tensor in tensors],
            )
            for tensor, factor in zip(tensors, factors, strict=False):
                if not (factor == 1).all():
                    _divide(tensor, factor.astype(np.float32), into_weights=self.into_weights)
                    changed += 1
        model.validate_nodes_and_infer_types()
        did = f"{changed} of {sum(map(len, groups))} tensors that convolutions alone read"
        return replace(network, float_model=model, model=model, did=did)


def _choose_factors(
    tensors: Sequence[ReadTensor], seen: Sequence[ChannelRange], free: Sequence[bool]
) -> list[Vector]:
    """What to divide the channels of each tensor of a group by; empty if that gains too little.

    By 1 where it is not ``free`` and the price is too high.
    """
    factors, noise = _best_factors(tensors, seen, free)
    if not all(free):
        others, less_noise = _best_factors(tensors, seen, [True] * len(free))
        if less_noise < (1 - LEAST_GAIN_AT_A_PRICE) * noise:
            return others
    return factors


def _best_factors(
    tensors: Sequence[ReadTensor], seen: Sequence[ChannelRange], divided: Sequence[bool]
) -> tuple[list[Vector], float]:
    """Factors for the tensors that are to be ``divided``, and the noise with them."""
    widths = [channels.reach for channels in seen]
    widest = max(float(width.max()) for width in widths)
    if widest <= 0:
        return [], 0.0
    shares = [
        np.maximum(width / widest, LEAST_FACTOR) if is_divided else np.ones_like(width)
        for width, is_divided in zip(widths, divided, strict=True)
    ]
    noise = {
        strength: _noise(tensors, seen, [share**strength for share in shares])
        for strength in STRENGTHS
    }
    best = min(noise, key=noise.__getitem__)
    if noise[best] > (1 - LEAST_GAIN) * noise[0.0]:
        return [], noise[0.0]
    return [share**best for share in shares], noise[best]


def _noise(
    tensors: Sequence[ReadTensor], seen: Sequence[ChannelRange], factors: Sequence[Vector]
) -> float:
    """Rounding noise in the outputs of a group's readers, relative to their signal, summed.

    Of the one grid that the divided tensors share, and of the weights multiplied, each rounded to
    nearest and independent of all others. The grid ends where the images do in the mean: one that
    held every extreme would promise gains that clipping brings without any division, and make
    YOLOv5n worse than if its channels were left alone.
    """
    pairs = list(zip(seen, factors, strict=True))
    low = min(float((channels.low / factor).min()) for channels, factor in pairs)
    high = max(float((channels.high / factor).max()) for channels, factor in pairs)
    variance = ((high - low) / _LEVELS) ** 2 / 12
    weights: dict[str, npt.NDArray[np.float32]] = {}
    powers, factor_of = dict[str, Vector](), dict[str, Vector]()
    for tensor, (channels, factor) in zip(tensors, pairs, strict=True):
        for reader in tensor.readers:
            name = reader.convolution.get_name()
            if name not in weights:
                weights[name] = _by_input(reader.convolution)
                inputs = int(reader.convolution.get_input_shape(0)[1])
                powers[name], factor_of[name] = np.zeros(inputs), np.ones(inputs)
            part = slice(reader.offset, reader.offset + tensor.channels)
            powers[name][part], factor_of[name][part] = channels.power, factor
    return sum(
        _relative_noise(weight, powers[name], factor_of[name], variance)
        for name, weight in weights.items()
    )


def _relative_noise(
    weight: npt.NDArray[np.float32], power: Vector, factor: Vector, variance: float
) -> float:
    """One convolution's: ``weight`` (I, outputs, taps), ``power`` and ``factor`` (I,).

    ``variance`` is that of the rounded input.
    """
    square = np.square(weight, dtype=np.float64).sum(axis=2)
    signal = float((square * power[:, None]).sum())
    rounded_input = variance * float((square * factor[:, None] ** 2).sum())
    steps = (np.abs(weight).max(axis=2) * factor[:, None]).max(axis=0) / _WEIGHT_LEVELS
    seen = weight.shape[2] * float((power / factor**2).sum())
    rounded_weight = float((steps**2).sum()) / 12 * seen
    return (rounded_input + rounded_weight) / signal if signal > 0 else 0.0


def _by_input(convolution: ov.Node) -> npt.NDArray[np.float32]:
    """A convolution's weights as (input channels, outputs that read each, taps)."""
    grouped = layer_of(convolution).grouped_weight
    groups, outputs, inputs, *kernel = grouped.shape
    return grouped.swapaxes(1, 2).reshape(groups * inputs, outputs, math.prod(kernel))


def _divide(tensor: ReadTensor, factor: npt.NDArray[np.float32], *, into_weights: bool) -> None:
    """Divide a tensor's channels and multiply its readers' weights; changes the model."""
    layer = _linear_layer(tensor.node) if into_weights else None
    if layer is not None:
        for node, index, shape in layer:
            value = np.asarray(constant_value(producer(node, index)), np.float32)
            replace_constant_input(node, index, value / factor.reshape(shape))
    else:
        targets = tensor.node.output(0).get_target_inputs()
        divided = ops.multiply(tensor.node, ops.constant((1 / factor).reshape(1, -1, 1, 1)))
        divided.set_friendly_name(f"{tensor.name}/equalized")
        for target in targets:
            target.replace_source_output(divided.output(0))
    for reader in tensor.readers:
        grouped = layer_of(reader.convolution).grouped_weight
        multipliers = np.ones(int(reader.convolution.get_input_shape(0)[1]), np.float32)
        multipliers[reader.offset : reader.offset + tensor.channels] = factor
        equalized = grouped * multipliers.reshape(len(grouped), 1, -1, 1, 1)
        shape = reader.convolution.get_input_shape(1)
        replace_constant_input(reader.convolution, 1, equalized.reshape(shape))


def _is_free(tensor: ReadTensor) -> bool:
    """False if weights cannot take a division, behind several taps that read a zero point."""
    if _linear_layer(tensor.node) is not None:
        return True
    above = chain([tensor.node], upstream([tensor.node]))
    nearest = next((node for node in above if node.get_type_name() in CONVOLUTIONS), None)
    return (
        nearest is None
        or nearest.get_type_name() != "Convolution"
        or math.prod(list(nearest.get_input_shape(1))[2:]) == 1
        or _is_unsigned(producer(nearest))
    )


def _is_unsigned(node: ov.Node) -> bool:
    """True for the image and for what ReLU makes, also joined or pooled."""
    if node.get_type_name() in HANDED_ON:
        inputs = [above for above in producers(node) if constant_value(above) is None]
        return all(map(_is_unsigned, inputs))
    return node.get_type_name() in ("Parameter", "Relu")


def _linear_layer(node: ov.Node) -> list[tuple[ov.Node, int, tuple[int, ...]]] | None:
    """The constants that a tensor is proportional to, as (node, input, shape of one per channel).

    Those are the weight and bias of a convolution alone or before a ReLU, leaky or not; None if it
    is something else.
    """
    found = []
    if node.get_type_name() in ("Relu", "PRelu") and len(consumers(producer(node))) == 1:
        node = producer(node)
    if node.get_type_name() == "Add":
        index = constant_input(node)
        channels = node.get_output_shape(0)[1]
        if index is None or list(node.get_input_shape(index)) != [1, channels, 1, 1]:
            return None
        found.append((node, index, (1, -1, 1, 1)))
        node = producer(node, 1 - index)
        if len(consumers(node)) > 1:
            return None
    if node.get_type_name() != "Convolution" or constant_value(producer(node, 1)) is None:
        return None
    return [(node, 1, (-1, 1, 1, 1)), *found]
