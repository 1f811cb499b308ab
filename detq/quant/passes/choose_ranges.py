"""Activation ranges by a rule for each part of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from detq.config import RangesConfig
from detq.quant.histograms import Histogram, distinct, histograms, take_histograms
from detq.quant.network import PLACED, Network, Stage
from detq.quant.pipeline import Seen
from detq.quant.quantizers import ranges_by, write_ranges


@dataclass(frozen=True)
class ChooseRanges:
    """Give every quantizer the range that its part's rule finds (:mod:`detq.numerics.ranges`).

    Signed tensors get a symmetric one if ``symmetric``, fine branches always. Parts under
    ``placement`` keep theirs.
    """

    rules: RangesConfig
    symmetric: bool = False
    name: ClassVar[str] = "choose ranges"
    stage: ClassVar[Stage] = Stage.ACTIVATIONS
    keeps_float: ClassVar[bool] = True

    def wants(self, network: Network) -> Sequence[Histogram]:
        """A histogram for every tensor."""
        return distinct(self._histograms(network))

    def apply(self, network: Network, seen: Seen) -> Network:
        """Choose and write them."""
        observed = take_histograms(seen.statistics, self._histograms(network))
        network = replace(network, observed=observed)
        rules = {q.name: getattr(self.rules, q.part) for q in network.quantizers}
        ranges = {
            q.name: ranges_by(rules[q.name], q, observed[q.name], self.rules, self.symmetric)
            for q in network.quantizers
            if rules[q.name] != PLACED
        }
        model = network.model.clone()
        write_ranges(model, ranges)
        kept = sum(rule == PLACED for rule in rules.values())
        used = sorted({rule for rule in rules.values() if rule != PLACED})
        did = f"{len(ranges)} tensors by {', '.join(used)}" + (f", {kept} kept" if kept else "")
        return replace(network.with_rules(rules, ranges), model=model, did=did)

    def _histograms(self, network: Network) -> dict[str, Histogram]:
        return histograms(network.model, network.quantizers, bins=self.rules.bins)
