"""Biases take back the shift of each output channel's mean that quantization causes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from detq.graph.layers import add_to_biases
from detq.quant.bias_errors import BiasErrors
from detq.quant.network import Network, Stage
from detq.quant.pipeline import Seen

BIAS_IMAGES = 64
"""With 96 the output error on held-back images is the same (docs/performance.md)."""
TRIAL_IMAGES = 32
"""Enough to compare one choice with another."""


@dataclass(frozen=True)
class MeasureBiasErrors:
    """Remember the shifts for a trial network, which judges ranges with them; biases stay."""

    name: ClassVar[str] = "measure bias errors"
    stage: ClassVar[Stage] = Stage.ACTIVATIONS
    keeps_float: ClassVar[bool] = True

    def wants(self, network: Network) -> list[BiasErrors]:
        """The mean errors of all layers."""
        return [_errors(network, "measuring what biases are off by", TRIAL_IMAGES)]

    def apply(self, network: Network, seen: Seen) -> Network:
        """Remember them."""
        shifts = seen.statistics.take(self.wants(network)[0])
        return replace(network, bias_shifts=shifts, did=f"of {len(shifts)} layers")


@dataclass(frozen=True)
class CorrectBiases:
    """Add the measured mean errors to the biases behind quantized convolutions."""

    name: ClassVar[str] = "correct biases"
    stage: ClassVar[Stage] = Stage.FINISHED
    keeps_float: ClassVar[bool] = False

    def wants(self, network: Network) -> list[BiasErrors]:
        """The mean errors of all layers."""
        return [_errors(network, "correcting biases", BIAS_IMAGES)]

    def apply(self, network: Network, seen: Seen) -> Network:
        """Add them."""
        model = network.model.clone()
        shifts = seen.statistics.take(self.wants(network)[0])
        add_to_biases(model, shifts)
        model.validate_nodes_and_infer_types()
        did = f"of {len(shifts)} layers"
        return replace(network, model=model, biases_corrected=len(shifts), did=did)


def _errors(network: Network, purpose: str, images: int) -> BiasErrors:
    totals = frozenset(split.total for split in network.splits)
    return BiasErrors(network.model, totals, purpose, images)
