"""Coarse & Fine Weight Splitting (arXiv 2312.10588, section 3.1): the arithmetic, in pure numpy.

Re-parameterization adds the 1x1 and identity branches to the centre tap alone, so that the centre
is an outlier against its neighbours and one integer step per output channel is too coarse for them.
CFWS takes the part of the centre that lies on its own INT8 grid out of the kernel:
``W = F + pad(C)``. ``C`` quantizes without error, and the fine kernel ``F`` has a step that fits
the neighbours.

Weights are float32 ``(O, I, kH, kW)`` with odd kernel sides, ``O`` the output channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
PAIR_LIMIT = 128
"""Most that two integer weights of paired input channels at one tap may add up to.

Without VNNI or AMX (AVX2, first AVX-512), x86 multiplies 8-bit numbers with ``vpmaddubsw``: it adds
the products of such a pair in 16 bits, and saturates beyond 32767 / 255 = 128.5 where both
activations are at 255.
"""
IMAGE_CHANNELS = (3, 12)
"""Input channels of kernels that read an image: whole, or its pixels in fours (YOLOX's focus)."""
Granularity = Literal["channel", "tensor"]


@dataclass(frozen=True)
class WeightSplit:
    """``weight == fine + pad(coarse)``.

    ``fine`` (O, I, kH, kW); ``coarse`` (O, I, 1, 1) from :func:`split_center` or (O, I, kH, kW)
    from :func:`split_residual`. ``coarse_step`` (O, 1, 1, 1) or (1, 1, 1, 1) is the grid that
    ``coarse`` lies on.
    """

    fine: Array
    coarse: Array
    coarse_step: Array


def weight_step(
    weight: Array,
    *,
    granularity: Granularity = "channel",
    bits: int = 8,
    limit_pairs: bool = False,
) -> Array:
    """(O, I, kH, kW) -> (O, 1, 1, 1) or (1, 1, 1, 1): real units per integer step, symmetric grid.

    An all-zero channel has no scale of its own; any positive step represents it exactly, so it
    gets 1. So does one of subnormal numbers, whose step float32 cannot hold. ``limit_pairs`` makes
    steps so large that no pair of integers overflows (:data:`PAIR_LIMIT`).
    """
    axes = (1, 2, 3) if granularity == "channel" else (0, 1, 2, 3)
    peak = np.abs(weight).max(axis=axes, keepdims=True).astype(np.float64)
    step = peak / _positive_levels(bits)
    if limit_pairs:
        pairs = _largest_pair_sum(weight).max(axis=axes, keepdims=True)
        step = np.maximum(step, pairs / (PAIR_LIMIT - 1))  # rounding moves a sum by at most 1
    return np.asarray(np.where(step >= np.finfo(np.float32).tiny, step, 1.0), np.float32)


def quantize_weight(
    weight: Array,
    *,
    granularity: Granularity = "channel",
    bits: int = 8,
    limit_pairs: bool = False,
) -> Array:
    """The nearest weight on the symmetric integer grid; same shape, real units."""
    step = weight_step(weight, granularity=granularity, bits=bits, limit_pairs=limit_pairs)
    return _round_to(weight, step)


def split_center(
    weight: Array,
    *,
    granularity: Granularity = "channel",
    bits: int = 8,
    limit_pairs: bool = False,
) -> WeightSplit:
    """The paper's split: the centre tap on its own integer grid is the coarse 1x1 kernel.

    What remains of the centre stays in the fine kernel, at most half a coarse step per tap.
    """
    row, column = weight.shape[2] // 2, weight.shape[3] // 2
    center = weight[:, :, row : row + 1, column : column + 1]
    step = weight_step(center, granularity=granularity, bits=bits, limit_pairs=limit_pairs)
    coarse = _round_to(center, step)
    fine = weight.copy()
    fine[:, :, row : row + 1, column : column + 1] -= coarse
    return WeightSplit(fine, coarse, step)


def split_residual(
    weight: Array,
    *,
    granularity: Granularity = "channel",
    bits: int = 8,
    limit_pairs: bool = False,
) -> WeightSplit:
    """Variant without centre extraction: the whole kernel on the grid, and what that leaves
    over.
    """
    step = weight_step(weight, granularity=granularity, bits=bits, limit_pairs=limit_pairs)
    coarse = _round_to(weight, step)
    return WeightSplit(weight - coarse, coarse, step)


def paired_channels(channels: int) -> npt.NDArray[np.int64]:
    """(P, I): for each of P ways to pair ``channels`` inputs, every one's partner, -1 for none.

    Neighbours 2j and 2j+1 meet. Where the inputs are an image's, so do those in the order of BGR:
    a runtime that is given BGR turns the weights around, not the image.
    """
    order = np.arange(channels)
    partner = np.where(order ^ 1 < channels, order ^ 1, -1)
    if channels not in IMAGE_CHANNELS:
        return partner[None]
    turned = order.reshape(-1, 3)[:, ::-1].ravel()  # its own inverse
    return np.stack([partner, np.where(partner[turned] >= 0, turned[partner[turned]], -1)])


def center_to_surround_ratio(weight: Array) -> float:
    """Median over output channels of largest |centre tap| over largest |neighbour tap|.

    About 1 for an ordinary convolution; 10 to 30 in trained RepVGG blocks. Infinite if the
    neighbours are all zero, 1 for a kernel without neighbours.
    """
    if weight.shape[2:] == (1, 1):
        return 1.0
    row, column = weight.shape[2] // 2, weight.shape[3] // 2
    magnitude = np.abs(weight)
    center = magnitude[:, :, row, column].max(axis=1)
    magnitude[:, :, row, column] = 0
    surround = magnitude.max(axis=(1, 2, 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(center > 0, center / surround, 0.0)
    return float(np.median(ratio))


def sqnr_db(reference: Array, approximation: Array) -> float:
    """Signal-to-quantization-noise ratio in dB; infinite where nothing was lost."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(reference.astype(np.float64) - approximation).sum())
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")


def plain_sqnr_db(weight: Array, *, granularity: Granularity = "channel", bits: int = 8) -> float:
    """What ordinary integer weights keep of ``weight``, in dB."""
    return sqnr_db(weight, quantize_weight(weight, granularity=granularity, bits=bits))


def cfws_sqnr_db(weight: Array, *, granularity: Granularity = "channel", bits: int = 8) -> float:
    """What the two quantized kernels of :func:`split_center` keep of ``weight`` together, in dB."""
    split = split_center(weight, granularity=granularity, bits=bits)
    restored = quantize_weight(split.fine, granularity=granularity, bits=bits)
    row, column = weight.shape[2] // 2, weight.shape[3] // 2
    restored[:, :, row : row + 1, column : column + 1] += quantize_weight(
        split.coarse, granularity=granularity, bits=bits
    )
    return sqnr_db(weight, restored)


def _round_to(weight: Array, step: Array) -> Array:
    return np.asarray(np.floor(weight / step + 0.5) * step, np.float32)


def _largest_pair_sum(weight: Array) -> npt.NDArray[np.float64]:
    """(O, I, kH, kW) -> the same shape: the largest sum, equal signs only, of each weight and one
    that it is paired with.
    """
    alone = ((0, 0), (0, 1), (0, 0), (0, 0))  # channel -1, which a channel without partner meets
    padded = np.pad(weight.astype(np.float64), alone)
    partner = paired_channels(weight.shape[1])
    sums = [
        part[:, None, :-1] + part[:, partner]
        for part in (np.maximum(padded, 0), np.maximum(-padded, 0))
    ]
    return np.asarray(np.maximum(*sums).max(axis=1), np.float64)


def _positive_levels(bits: int) -> int:
    return int(2 ** (bits - 1) - 1)
