"""Weights are stored as the integers that they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from openvino._offline_transformations import compress_quantize_weights_transformation

from detq.quant.network import Network, Stage
from detq.quant.pipeline import Seen, WantsNothing


@dataclass(frozen=True)
class CompressWeights(WantsNothing):
    """INT8 constants in place of float ones behind a FakeQuantize; computes the same."""

    name: ClassVar[str] = "compress weights"
    stage: ClassVar[Stage] = Stage.FINISHED
    keeps_float: ClassVar[bool] = False

    def apply(self, network: Network, seen: Seen) -> Network:
        """Compress a copy."""
        model = network.model.clone()
        compress_quantize_weights_transformation(model)
        return replace(network, model=model)
