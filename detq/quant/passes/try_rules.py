"""A part of the network takes another rule for its ranges where the output says so."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, get_args

from detq.config import RangesConfig
from detq.numerics.integer_range import Range
from detq.quant.network import PLACED, Network, Stage
from detq.quant.pipeline import Seen, WantsNothing
from detq.quant.quantizers import ranges_by, write_ranges
from detq.quant.trial import TrialNetwork, search_images
from detq.records import Part

_LEAST_GAIN = 0.02  # of the error
_Candidate = dict[str, tuple[str, tuple[Range, ...]]]  # by the quantizers' names: rule, ranges


@dataclass(frozen=True)
class TryRules(WantsNothing):
    """Try ``rules.alternatives`` on each part, and keep what brings the output nearer to float's.

    No rule is best on every network: on digit scenes a YOLOv9t with ranges by least squared error
    is twice as far from float as by KL, a YOLOv5n on COCO nearer. A choice for each tensor would
    fit the images that it is made on; three choices cannot.
    """

    rules: RangesConfig
    symmetric: bool = False
    name: ClassVar[str] = "try other rules"
    stage: ClassVar[Stage] = Stage.ACTIVATIONS
    keeps_float: ClassVar[bool] = True

    def apply(self, network: Network, seen: Seen) -> Network:
        """On all parts together, then on each, in the order of the data flow, also back again."""
        trial = TrialNetwork(network, search_images(seen.statistics), switches=False)
        own = {quantizer.name: quantizer.rule for quantizer in network.quantizers}
        ranges, rules = dict(network.ranges), dict(own)
        errors = before = trial.errors(ranges)
        candidates = [*map(partial(self._by_rule, network), self.rules.alternatives)]
        candidates.append({name: (own[name], channels) for name, channels in ranges.items()})
        parts = get_args(Part)
        for done, place in enumerate(places := [parts, *((part,) for part in parts)], start=1):
            there = _grids_of(network, place)
            for candidate in candidates:
                chosen = {name: candidate[name] for name in there & candidate.keys()}
                other = {name: channels for name, (_, channels) in chosen.items()}
                if other.items() <= ranges.items():
                    continue  # that is what the part has
                found = trial.errors(ranges | other, than=errors)
                if found.mean() < (1 - _LEAST_GAIN) * errors.mean():
                    ranges, errors = ranges | other, found
                    rules |= {name: rule for name, (rule, _) in chosen.items()}
            seen.report(self.name, done, len(places))
        changed = {name: rule for name, rule in rules.items() if rule != own[name]}
        model = network.model.clone()
        write_ranges(model, {name: ranges[name] for name in changed})
        did = f"of {len(changed)} tensors; output error {before.mean():.3f} -> {errors.mean():.3f}"
        return replace(network.with_rules(changed, ranges), model=model, did=did)

    def _by_rule(self, network: Network, rule: str) -> _Candidate:
        return {
            q.name: (
                rule,
                ranges_by(rule, q, network.observed[q.name], self.rules, self.symmetric),
            )
            for q in network.quantizers
            if q.rule not in (PLACED, rule)
        }


def _grids_of(network: Network, parts: Collection[Part]) -> set[str]:
    """The quantizers whose grids belong to some parts; of those that share one the first says."""
    belongs = {quantizer.name: quantizer.part for quantizer in network.quantizers}
    return {q.name for q in network.quantizers if belongs[q.group] in parts}
