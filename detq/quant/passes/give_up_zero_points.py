"""Zero points that convolutions would pay for are kept only where they are worth it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from detq.numerics.integer_range import Range
from detq.quant.fallback import quantizer_groups
from detq.quant.network import Network, Ranges, Stage
from detq.quant.pipeline import Seen, WantsNothing
from detq.quant.quantizers import write_ranges
from detq.quant.trial import RANKING_IMAGES, TrialNetwork, search_images

SCALES = (1.0, 0.8, 0.9, 1.1, 1.25)
"""Multiples of a signed range that are tried; of ranges per channel the first alone."""


@dataclass(frozen=True)
class GiveUpZeroPoints(WantsNothing):
    """Give tensors signed grids where that adds less error than it saves latency.

    Both are shares of what the network has: one per cent is worth one per cent. It is about the
    convolutions whose biases cannot take the zero point of what they read
    (:meth:`~detq.quant.cost.CostModel.zero_point`).
    """

    name: ClassVar[str] = "give up zero points"
    stage: ClassVar[Stage] = Stage.ACTIVATIONS
    keeps_float: ClassVar[bool] = True

    def apply(self, network: Network, seen: Seen) -> Network:
        """Try the dear ones, in execution order, and write the grids that stay."""
        ranges = dict(network.ranges)
        dear = [
            group
            for group in quantizer_groups(network)
            if group.zero_point_cost > 0
            and any(one.needs_zero_point for name in group.members for one in ranges.get(name, ()))
        ]
        if not dear:
            return replace(network, did="none costs anything")
        trial = TrialNetwork(network, search_images(seen.statistics), switches=False)
        errors = before = trial.errors(ranges)
        signed: dict[str, tuple[Range, ...]] = {}
        for done, group in enumerate(dear, start=1):
            tried = [
                _signed({name: ranges[name] for name in group.members}, scale)
                for scale in (SCALES if group.per_tensor else SCALES[:1])
            ]
            few = [trial.errors(ranges | one, first=RANKING_IMAGES).mean() for one in tried]
            best = tried[few.index(min(few))]
            most = errors * (1 + group.zero_point_cost)
            found = trial.errors(ranges | best, than=most)
            if found.mean() < most.mean():
                ranges, errors, signed = ranges | best, found, signed | best
            seen.report(self.name, done, len(dear))
        model = network.model.clone()
        write_ranges(model, signed)
        rules = {q.name: f"{q.rule}, signed" for q in network.quantizers if q.name in signed}
        mixed = network.mixed and replace(network.mixed, error=float(errors.mean()))
        did = f"of {len(signed)} tensors; output error {before.mean():.3f} -> {errors.mean():.3f}"
        return replace(network.with_rules(rules, signed), model=model, mixed=mixed, did=did)


def _signed(ranges: Ranges, scale: float) -> dict[str, tuple[Range, ...]]:
    signed = {name: [channel.signed for channel in channels] for name, channels in ranges.items()}
    return {
        name: tuple(Range(channel.low * scale, channel.high * scale) for channel in channels)
        for name, channels in signed.items()
    }
