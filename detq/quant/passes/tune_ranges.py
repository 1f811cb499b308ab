"""Ranges chosen by measurement: each tensor's grid is the one that disturbs the output least.

A rule looks at one tensor; which rule is best depends on what the network does with it, and differs
from tensor to tensor. So every rule only proposes, and what is proposed is judged by the network's
output; no labels are needed. A change counts only if it helps by more than chance would have it,
which keeps the search from fitting the noise of so few images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar

import numpy as np

from detq.config import RangeMethod, RangesConfig
from detq.numerics.ranges import Range
from detq.quant.fallback import QuantizerGroup, quantizer_groups
from detq.quant.network import Network, Ranges, Stage
from detq.quant.pipeline import Seen, WantsNothing
from detq.quant.quantizers import write_ranges
from detq.quant.range_rules import proposals
from detq.quant.trial import RANKING_IMAGES, Errors, TrialNetwork, search_images

SCALES = (0.8, 0.9, 1.1, 1.25)
"""After the rules, ranges per tensor also try these multiples of the best so far."""
_DISTINCT = 0.02  # proposals that differ less are the same
_LEAST_GAIN = 0.002  # of the error


@dataclass(frozen=True)
class TuneRanges(WantsNothing):
    """Let every group of tensors that float would help try its proposals, in execution order.

    Zero points that convolutions would pay for are kept only where they are worth it.
    """

    rules: RangesConfig
    symmetric: bool = False
    name: ClassVar[str] = "tune ranges"
    stage: ClassVar[Stage] = Stage.ACTIVATIONS
    keeps_float: ClassVar[bool] = True

    def apply(self, network: Network, seen: Seen) -> Network:
        """Try, keep what helps, and write it."""
        trial = TrialNetwork(network, search_images(seen.statistics), switches=False)
        rules = {quantizer.name: quantizer.rule for quantizer in network.quantizers}
        state = _State(trial, dict(network.ranges), rules, trial.errors(network.ranges))
        before = state.error
        every = proposals(self.rules, network, symmetric=self.symmetric)
        gains = network.search.gains if network.search else {}
        groups = quantizer_groups(network)
        seen.report(self.name, 0, len(groups))
        for done, group in enumerate(groups, start=1):
            if gains.get(group.members[0], np.inf) > _LEAST_GAIN * state.error:
                _improve(state, group, every)
            _give_up_zero_point(state, group)
            seen.report(self.name, done, len(groups))
        model = network.model.clone()
        changed = {n: found for n, found in state.ranges.items() if state.rules[n] != rules[n]}
        write_ranges(model, changed)
        search = network.search and replace(network.search, error=state.error)
        did = f"{len(changed)} tensors; output error {before:.3f} -> {state.error:.3f}"
        network = network.with_rules({name: state.rules[name] for name in changed}, changed)
        return replace(network, model=model, search=search, did=did)


@dataclass
class _State:
    """The best network so far: which ranges it has, by which rules, and its error on each image."""

    trial: TrialNetwork
    ranges: dict[str, tuple[Range, ...]]
    rules: dict[str, str]
    errors: Errors

    def __post_init__(self) -> None:
        self.rules = dict(self.rules)

    @property
    def error(self) -> float:
        return float(self.errors.mean())

    def adopt(self, ranges: Ranges, errors: Errors, rule: str) -> None:
        """Give some quantizers other ranges, with which the network's errors are these."""
        self.ranges.update(ranges)
        self.errors = errors
        self.rules.update(dict.fromkeys(ranges, rule))


def _improve(state: _State, group: QuantizerGroup, every: Mapping[RangeMethod, Ranges]) -> None:
    """Try every other proposal for one group; changes ``state`` for the better or not at all."""
    best = {name: state.ranges[name] for name in group.members}
    named = ((other, {name: ranges[name] for name in best}) for other, ranges in every.items())
    scaled: Iterable[tuple[str, Ranges]] = (
        (f"{state.rules[group.members[0]]} x {scale}", _scaled(best, scale)) for scale in SCALES
    )
    seen: list[Ranges] = [best]
    for method, candidate in chain(named, scaled if group.per_tensor else ()):
        if any(_alike(candidate, other) for other in seen):
            continue
        seen.append(candidate)
        errors = state.trial.errors({**state.ranges, **candidate}, than=state.errors)
        if _is_better(errors, state.errors):
            state.adopt(candidate, errors, method)


def _give_up_zero_point(state: _State, group: QuantizerGroup) -> None:
    """Give a group a signed grid if that adds less error than it saves latency.

    Both are shares of what the network has: one per cent is worth one per cent. Changes ``state``.
    """
    before = {name: state.ranges[name] for name in group.members}
    pays = any(channel.needs_zero_point for channels in before.values() for channel in channels)
    if not pays or group.zero_point_cost == 0:
        return
    signed = {
        name: tuple(channel.signed for channel in channels) for name, channels in before.items()
    }
    candidates = [signed, *(_scaled(signed, scale) for scale in SCALES if group.per_tensor)]

    def errors_of(candidate: Ranges, first: int | None = None) -> Errors:
        return state.trial.errors({**state.ranges, **candidate}, first=first)

    best = min(candidates, key=lambda ranges: float(errors_of(ranges, RANKING_IMAGES).mean()))
    errors = errors_of(best)
    if float(errors.mean()) < state.error * (1 + group.zero_point_cost):
        state.adopt(best, errors, f"{state.rules[group.members[0]]}, signed")


def _is_better(errors: Errors, before: Errors) -> bool:
    """On average by more than a trifle, and by more than chance would have it."""
    if not np.isfinite(errors).all():
        return False
    gains = before - errors
    chance = gains.std() / np.sqrt(len(gains))
    return bool(gains.mean() > max(_LEAST_GAIN * before.mean(), chance))


def _scaled(ranges: Ranges, scale: float) -> dict[str, tuple[Range, ...]]:
    return {
        name: tuple(Range(channel.low * scale, channel.high * scale) for channel in channels)
        for name, channels in ranges.items()
    }


def _alike(ranges: Ranges, others: Ranges) -> bool:
    """True if every end of every range is nearly the same."""
    pairs = (
        (one, other)
        for name, channels in ranges.items()
        for one, other in zip(channels, others[name], strict=True)
    )
    return all(
        abs(one.high - other.high) <= _DISTINCT * other.high
        and abs(one.low - other.low) <= _DISTINCT * (other.high - other.low)
        for one, other in pairs
    )
