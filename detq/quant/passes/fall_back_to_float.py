"""Tensors that no INT8 grid serves fall back to float, where the latency budget allows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from detq.progress import Steps
from detq.quant.fallback import QuantizerGroup, fall_back, quantizer_groups
from detq.quant.network import MixedPrecision, Network, Stage
from detq.quant.pipeline import Seen, WantsNothing
from detq.quant.trial import RANKING_IMAGES, TrialNetwork, search_images

MAC_SHARE = 0.045
"""At most this share of the multiplications leaves INT8, so that 95% surely stay in it."""
_LEAST_GAIN = 0.01  # of the error
_CANDIDATES = 4


@dataclass(frozen=True)
class FallBackToFloat(WantsNothing):
    """Take out of INT8 what gains most for its share of ``budget``, while that lasts.

    ``budget`` is a share of the latency in plain INT8.
    """

    budget: float = 0.0
    name: ClassVar[str] = "fall back to float"
    stage: ClassVar[Stage] = Stage.ACTIVATIONS
    keeps_float: ClassVar[bool] = False

    def apply(self, network: Network, seen: Seen) -> Network:
        """Judge and fall back."""
        trial = TrialNetwork(network, search_images(seen.statistics))
        fallback = _Fallback(trial, network, self.budget)
        fallback.run(quantizer_groups(network), partial(seen.report, self.name))
        in_float = [q.name for q in network.quantizers if q.name in fallback.in_float]
        mixed = MixedPrecision(
            int8_error=fallback.int8_error,
            error=float(fallback.errors.mean()),
            in_float=tuple(in_float),
            cost=fallback.spent,
        )
        did = f"{len(in_float)} tensors, +{100 * mixed.cost:.1f}% latency"
        did = f"{did}; output error {mixed.int8_error:.3f} -> {mixed.error:.3f}"
        return replace(fall_back(network, in_float), mixed=mixed, did=did)


class _Fallback:
    """What is in float so far, the output errors with it, and what of the budgets it took."""

    def __init__(self, trial: TrialNetwork, network: Network, budget: float) -> None:
        self._trial, self._ranges, self._budget = trial, network.ranges, budget
        self.in_float = network.in_float
        self.errors = trial.errors(self._ranges, self.in_float)
        self.int8_error = float(self.errors.mean())
        self.spent = self._mac_share = 0.0

    def run(self, groups: Sequence[QuantizerGroup], progress: Steps) -> None:
        """Fall back while the budgets last and something is worth it."""
        fitting = list(filter(self._fits, groups))
        gains = self._trial.gains(
            self._ranges,
            self.in_float,
            fitting,
            before=float(self.errors[:RANKING_IMAGES].mean()),
            progress=lambda done: progress(done, len(fitting)),
        )
        while True:
            promising = sorted(filter(self._fits, gains), key=lambda group: -gains[group])
            tried = {
                group: self._trial.errors(
                    self._ranges, self.in_float.union(group.members), than=self.errors
                )
                for group in promising[:_CANDIDATES]
            }
            before = float(self.errors.mean())
            worth = {
                group: (before - float(errors.mean())) / self._price(group)
                for group, errors in tried.items()
                if before - float(errors.mean()) > _LEAST_GAIN * before
            }
            if not worth:
                return
            best = max(worth, key=lambda group: worth[group])
            self.in_float, self.errors = self.in_float.union(best.members), tried[best]
            self.spent, self._mac_share = self.spent + best.cost, self._mac_share + best.mac_share

    def _fits(self, group: QuantizerGroup) -> bool:
        """True if the budgets have room for it and it is not in float yet."""
        return (
            not self.in_float & set(group.members)
            and self.spent + group.cost <= self._budget
            and self._mac_share + group.mac_share <= MAC_SHARE
        )

    def _price(self, group: QuantizerGroup) -> float:
        """What a group uses up of the budgets; nothing is free, or crumbs would come first."""
        return 0.1 + group.cost / max(self._budget, 1e-9) + group.mac_share / MAC_SHARE
