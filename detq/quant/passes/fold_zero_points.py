"""Zero points move into biases, where that is exact (:mod:`detq.graph.zero_points`).

A grid with a zero point costs the convolutions that read it time: 10 to 30% of it on CPUs with AMX,
and now and then ten times as much (docs/performance.md). A pointwise one need not pay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from detq.graph.zero_points import fold_zero_points
from detq.quant.network import Network, Stage
from detq.quant.pipeline import Seen, WantsNothing


@dataclass(frozen=True)
class FoldZeroPoints(WantsNothing):
    """Let pointwise convolutions read tensors without their zero points.

    The network computes the same. Biases are to be corrected before.
    """

    name: ClassVar[str] = "fold zero points"
    stage: ClassVar[Stage] = Stage.FINISHED
    keeps_float: ClassVar[bool] = False

    def apply(self, network: Network, seen: Seen) -> Network:
        """Move them."""
        model = network.model.clone()
        changed = fold_zero_points(model)
        return replace(network, model=model, did=f"of the inputs of {len(changed)} convolutions")
