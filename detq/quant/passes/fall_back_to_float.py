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


@dataclass(frozen=True)
class FallBackToFloat(WantsNothing):
    """Take out of INT8 what gains most for its share of ``budget``, while that lasts.

    ``budget`` is a share of the latency in plain INT8. What each tensor gains alone, on two images,
    gives the order; how many of them fall back is judged on all. Adding one by one whatever gained
    most on all images chose fewer, and where many tensors gain a little (PicoDet, 100 of them) left
    an eighth more error on images that were not looked at.
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
        self.spent = 0.0

    def run(self, groups: Sequence[QuantizerGroup], progress: Steps) -> None:
        """Let as many fall back, in the order of what they are worth, as leave least error."""
        chosen = self._affordable(groups, progress)
        tried = {0: (self.in_float, self.errors)}
        for count in _lengths(len(chosen)):
            in_float = self.in_float.union(*(group.members for group in chosen[:count]))
            tried[count] = in_float, self._trial.errors(self._ranges, in_float)
        means = {count: float(errors.mean()) for count, (_, errors) in tried.items()}
        enough = min(means.values()) / (1 - _LEAST_GAIN)
        best = min(count for count, mean in means.items() if mean <= enough)
        self.in_float, self.errors = tried[best]
        self.spent = sum(group.cost for group in chosen[:best])

    def _affordable(
        self, groups: Sequence[QuantizerGroup], progress: Steps
    ) -> list[QuantizerGroup]:
        """What gains and the budgets have room for, the most gain for its price first."""
        fitting = [group for group in groups if self._fits(group, 0.0, 0.0)]
        gains = self._trial.gains(
            self._ranges,
            self.in_float,
            fitting,
            before=float(self.errors[:RANKING_IMAGES].mean()),
            progress=lambda done: progress(done, len(fitting)),
        )
        chosen, spent, mac_share = list[QuantizerGroup](), 0.0, 0.0
        for group in sorted(fitting, key=lambda group: -gains[group] / self._price(group)):
            if gains[group] > 0 and self._fits(group, spent, mac_share):
                chosen.append(group)
                spent, mac_share = spent + group.cost, mac_share + group.mac_share
        return chosen

    def _fits(self, group: QuantizerGroup, spent: float, mac_share: float) -> bool:
        """True if the budgets have room for it beside what is spent, and it is not in float yet."""
        return (
            not self.in_float & set(group.members)
            and spent + group.cost <= self._budget
            and mac_share + group.mac_share <= MAC_SHARE
        )

    def _price(self, group: QuantizerGroup) -> float:
        """What a group uses up of the budgets; nothing is free, or crumbs would come first."""
        return 0.1 + group.cost / max(self._budget, 1e-9) + group.mac_share / MAC_SHARE


def _lengths(count: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, … and ``count``: some ten of them, however many there are."""
    doubling = [step << power for power in range(count.bit_length()) for step in (2, 3)]
    return sorted({length for length in (1, *doubling, count) if 0 < length <= count})
