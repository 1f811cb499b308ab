"""Which convolutions to split: those whose output gets cleaner by it, most noise per latency first.

For each re-parameterized convolution the noise that rounded weights leave in its output is worked
out from the Hessian of its inputs, for one kernel and for the coarse and fine pair (whose fine
branch is rounded once more before the sum), relative to the signal there. What the pair saves is
weighed against what it is predicted to cost (:mod:`detq.quant.cost`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import openvino as ov

from detq.config import WeightsConfig
from detq.graph.layers import ConvLayer
from detq.numerics.cfws import split_center, weight_step
from detq.quant.cost import CostModel
from detq.quant.hessians import Hessian, KernelBlocks, Weight, gptq_weight, output_noise
from detq.quant.network import SplitChoice

FINE_RANGE = 5.0
"""Half the range of a fine branch's output, in root mean squares of its largest channel."""
LEAST_GAIN_DB = 3.0
"""A split that cleans a layer's output by less is not worth a convolution."""
CLEAN_DB = 36.0
"""Rounded activations alone leave about this SQNR: a cleaner output is not limited by weights."""


@dataclass(frozen=True)
class Weighed:
    """The output SQNR of one layer in dB without and with a split, and the share of its output's
    power that is noise saved.
    """

    layer: ConvLayer
    plain_db: float
    split_db: float
    saved: float


def weigh(
    layer: ConvLayer,
    blocks: KernelBlocks,
    hessian: list[Hessian],
    config: WeightsConfig,
    *,
    limit_pairs: bool,
) -> Weighed:
    """What splitting one convolution would do to its output, for ``hessian`` of its inputs."""
    weight, kernels = layer.weight, layer.kernels
    step_of = partial(
        weight_step, granularity=config.granularity, bits=config.bits, limit_pairs=limit_pairs
    )
    fine = split_center(
        kernels, granularity=config.granularity, bits=config.bits, limit_pairs=limit_pairs
    ).fine.reshape(weight.shape)

    def rounding_noise(values: Weight) -> float:
        step = step_of(values.reshape(kernels.shape))
        if config.granularity == "channel":
            step = step.reshape(*weight.shape[:-3], 1, 1, 1)
        if config.rounding == "nearest":
            rounded = np.rint(values / step) * step
        else:
            rounded = gptq_weight(
                blocks, values, step, hessian, bits=config.bits, limit_pairs=limit_pairs
            )
        return float(output_noise(blocks, values - rounded, hessian).mean())

    fine_power = output_noise(blocks, fine, hessian)
    fine_step = 2 * FINE_RANGE * np.sqrt(float(fine_power.max())) / 255
    signal = float(output_noise(blocks, weight, hessian).mean())
    plain, split = rounding_noise(weight), rounding_noise(fine) + fine_step**2 / 12
    saved = (plain - split) / signal if signal > 0 else 0.0
    return Weighed(layer, _db(signal, plain), _db(signal, split), saved)


def choose(model: ov.Model, weighed: Sequence[Weighed], budget: float) -> tuple[SplitChoice, ...]:
    """Those that gain, in order of noise removed per latency, until ``budget`` is spent.

    ``budget`` is a share of the latency of ``model`` in plain INT8.
    """
    costs = CostModel.of(model)
    cost = {each.layer.name: costs.split(each.layer.convolution) for each in weighed}
    chosen, left = set[str](), budget
    for each in sorted(weighed, key=lambda each: -each.saved / cost[each.layer.name]):
        name = each.layer.name
        pays = each.plain_db < CLEAN_DB and each.split_db >= each.plain_db + LEAST_GAIN_DB
        if pays and cost[name] <= left:
            chosen.add(name)
            left -= cost[name]
    return tuple(
        SplitChoice(name, each.plain_db, each.split_db, cost[name], name in chosen)
        for each in weighed
        for name in [each.layer.name]
    )


def _db(signal: float, noise: float) -> float:
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))
