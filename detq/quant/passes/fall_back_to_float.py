"""Tensors that no INT8 grid serves fall back to float, where the latency budget allows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

from detq.config import RangeMethod, RangesConfig
from detq.progress import Steps
from detq.quant.fallback import QuantizerGroup, fall_back, quantizer_groups
from detq.quant.network import Network, Ranges, SearchResult, Stage
from detq.quant.pipeline import Seen, WantsNothing
from detq.quant.quantizers import write_ranges
from detq.quant.range_rules import proposals
from detq.quant.trial import RANKING_IMAGES, Errors, TrialNetwork, search_images

MAC_SHARE = 0.045
"""At most this share of the multiplications leaves INT8, so that 95% surely stay in it."""
_LEAST_GAIN = 0.01  # of the error
_CANDIDATES = 6


@dataclass(frozen=True)
class FallBackToFloat(WantsNothing):
    """Take out of INT8 what gains most for its share of ``budget``, while that lasts.

    ``budget`` is a share of the latency in plain INT8, of which split convolutions have had theirs.
    One tensor that no grid serves can make the wrong rule the best for all others, so all rules are
    compared anew each time. Every tensor that stays gets the range of the best one.
    """

    rules: RangesConfig
    symmetric: bool = False
    budget: float = 0.0
    name: ClassVar[str] = "fall back to float"
    stage: ClassVar[Stage] = Stage.ACTIVATIONS
    keeps_float: ClassVar[bool] = False

    def apply(self, network: Network, seen: Seen) -> Network:
        """Judge and fall back."""
        trial = TrialNetwork(network, search_images(seen.statistics))
        search = _Fallback(
            trial,
            proposals(self.rules, network, symmetric=self.symmetric),
            quantizer_groups(network),
            self.budget - network.split_cost,
        )
        search.run(partial(seen.report, self.name))
        in_float = [q.name for q in network.quantizers if q.name in search.in_float]
        ranges = {n: r for n, r in search.proposals[search.rule].items() if n not in in_float}
        changed = fall_back(network, in_float)
        write_ranges(changed.model, ranges)
        result = SearchResult(
            start=search.start,
            start_error=search.start_error,
            error=float(search.errors.mean()),
            in_float=tuple(in_float),
            cost=search.spent,
        )
        did = f"{len(in_float)} tensors, +{100 * search.spent:.1f}% latency; output error "
        return replace(
            changed.with_rules(dict.fromkeys(ranges, search.rule), ranges),
            search=result,
            did=f"{did}{result.start_error:.3f} -> {result.error:.3f} ({search.rule} elsewhere)",
        )


@dataclass
class _Fallback:
    """The best single rule so far, and what is in float with it."""

    trial: TrialNetwork
    proposals: Mapping[RangeMethod, Ranges]
    groups: Sequence[QuantizerGroup]
    budget: float
    in_float: frozenset[str] = frozenset()
    spent: float = 0.0
    share: float = 0.0
    gains: dict[QuantizerGroup, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rule, self.errors = self._best_rule()
        self.start, self.start_error = self.rule, float(self.errors.mean())

    def run(self, progress: Steps) -> None:
        """Fall back while the budget lasts and something is worth it."""
        fitting = list(filter(self._fits, self.groups))
        progress(0, len(fitting))
        self.gains = self._gains(fitting, lambda done: progress(done, len(fitting)))
        while True:
            promising = list(filter(self._fits, self.gains))
            promising.sort(key=lambda group: -self.gains[group])
            tried = {group: self._without(group) for group in promising[:_CANDIDATES]}
            before = float(self.errors.mean())
            worth = {
                group: (before - float(errors.mean())) / self._price(group)
                for group, errors in tried.items()
                if before - float(errors.mean()) > _LEAST_GAIN * before
            }
            if not worth:
                return
            best = max(worth, key=lambda group: worth[group])
            self.spent, self.share = self.spent + best.cost, self.share + best.mac_share
            self.in_float = self.in_float.union(best.members)
            self.errors = tried[best]
            rule, errors = self._best_rule()
            if float(errors.mean()) < float(self.errors.mean()):
                self.rule, self.errors = rule, errors
                self.gains |= self._gains(promising, lambda done: None)

    def _fits(self, group: QuantizerGroup) -> bool:
        """True if the budgets have room for it and it is not in float yet."""
        return (
            not self.in_float & set(group.members)
            and self.spent + group.cost <= self.budget
            and self.share + group.mac_share <= MAC_SHARE
        )

    def _best_rule(self) -> tuple[RangeMethod, Errors]:
        """Whose ranges for all tensors give the least error."""
        (best, ranges), *others = self.proposals.items()
        errors = self.trial.errors(ranges, self.in_float)
        for rule, ranges in others:
            found = self.trial.errors(ranges, self.in_float, than=errors)
            if found.mean() < errors.mean():
                best, errors = rule, found
        return best, errors

    def _gains(
        self, groups: Sequence[QuantizerGroup], progress: Callable[[int], None]
    ) -> dict[QuantizerGroup, float]:
        """How much error each group would take along."""
        before = float(self.errors[:RANKING_IMAGES].mean())
        ranges = self.proposals[self.rule]
        return self.trial.gains(ranges, self.in_float, groups, before=before, progress=progress)

    def _without(self, group: QuantizerGroup) -> Errors:
        ranges = self.proposals[self.rule]
        return self.trial.errors(ranges, self.in_float.union(group.members), than=self.errors)

    def _price(self, group: QuantizerGroup) -> float:
        """What a group uses up of the budgets; nothing is free, or crumbs would come first."""
        return 0.1 + group.cost / max(self.budget, 1e-9) + group.mac_share / MAC_SHARE
