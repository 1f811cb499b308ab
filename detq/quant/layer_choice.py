"""Which convolutions to split: those whose output gets cleaner by it, most noise per latency first.

For each re-parameterized convolution the noise that rounded weights leave in its output is worked
out from the second moments of its inputs, for one kernel and for the coarse and fine pair (whose
fine branch is rounded once more before the sum), relative to the signal there. What the pair saves
is weighed against what it is predicted to cost (:mod:`detq.quant.cost`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from detq.config import WeightsConfig
from detq.errors import GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import constant_value, find_node, producer
from detq.numerics.cfws import split_center, weight_step
from detq.quant.cost import CostModel
from detq.quant.feedback import (
    Layer,
    Moments,
    Weight,
    layer_of,
    observe_moments,
    output_noise,
    passes,
    rounded_weight,
)

Image = npt.NDArray[np.float32]

FINE_RANGE = 5.0
"""Half the range of a fine branch's output, in root mean squares of its largest channel."""
LEAST_GAIN_DB = 3.0
"""A split that cleans a layer's output by less is not worth a convolution."""
CLEAN_DB = 36.0
"""Rounded activations alone leave about this SQNR: a cleaner output is not limited by weights."""


@dataclass(frozen=True)
class SplitChoice:
    """What splitting one convolution would do: output SQNR in dB without and with, and its cost.

    The cost is a share of the network's latency in plain INT8.
    """

    name: str
    plain_db: float
    split_db: float
    cost: float
    chosen: bool


def choose_layers(
    graph: DetectorGraph,
    config: WeightsConfig,
    images: Callable[[], Iterable[Image]],
    *,
    budget: float,
    limit_pairs: bool,
) -> list[SplitChoice]:
    """Weigh every re-parameterized convolution in ``config.parts``, in the spec's order.

    ``images`` gives float32 [1, 3, H, W], afresh for each of several passes. Chosen are those
    that gain, in order of noise removed per latency, until ``budget`` is spent, a share of the
    latency in plain INT8.
    """
    names = [conv.name for conv in graph.spec.reparameterized if conv.part in config.parts]
    layers = [layer_of(find_node(graph.model, name)) for name in names]
    costs = CostModel.of(graph.model)
    weighed: list[tuple[SplitChoice, float]] = []
    for some in passes(layers):
        moments = observe_moments(graph.model, some, images())
        for layer in some:
            weighed.append(
                _weigh(graph, layer, moments.pop(layer.name), config, costs, limit_pairs)
            )
    chosen, left = set[str](), budget
    by_worth = sorted(weighed, key=lambda pair: -pair[1] / pair[0].cost)
    for choice, _ in by_worth:
        pays = choice.plain_db < CLEAN_DB and choice.split_db >= choice.plain_db + LEAST_GAIN_DB
        if pays and choice.cost <= left:
            chosen.add(choice.name)
            left -= choice.cost
    return [
        SplitChoice(c.name, c.plain_db, c.split_db, c.cost, c.name in chosen) for c, _ in weighed
    ]


def _weigh(
    graph: DetectorGraph,
    layer: Layer,
    moments: list[Moments],
    config: WeightsConfig,
    costs: CostModel,
    limit_pairs: bool,
) -> tuple[SplitChoice, float]:
    """One layer's choice, not yet made, and the share of its output's power that is saved noise."""
    node = find_node(graph.model, layer.name)
    weight = constant_value(producer(node, 1))
    if weight is None:
        raise GraphError(f"{layer.name}: its weights are not constant; cannot split it")
    kernels = np.array(weight, np.float32).reshape(-1, *weight.shape[-3:])
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
            rounded = rounded_weight(
                layer, values, step, moments, bits=config.bits, limit_pairs=limit_pairs
            )
        return float(output_noise(layer, values - rounded, moments).mean())

    fine_power = output_noise(layer, fine, moments)
    fine_step = 2 * FINE_RANGE * np.sqrt(float(fine_power.max())) / 255
    signal = float(output_noise(layer, weight, moments).mean())
    plain, split = rounding_noise(weight), rounding_noise(fine) + fine_step**2 / 12
    choice = SplitChoice(
        name=layer.name,
        plain_db=_db(signal, plain),
        split_db=_db(signal, split),
        cost=costs.split(node),
        chosen=False,
    )
    return choice, (plain - split) / signal if signal > 0 else 0.0


def _db(signal: float, noise: float) -> float:
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))
