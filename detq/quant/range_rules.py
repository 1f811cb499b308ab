"""What the range rules propose for the quantizers of a network, from what was observed."""

from __future__ import annotations

from detq.config import RangeMethod, RangesConfig
from detq.numerics.ranges import Range, choose_range
from detq.quant.network import PLACED, Network

PROPOSALS: tuple[RangeMethod, ...] = (
    "mse",
    "kl_cfws",
    "percentile",
    "kl_entropy",
    "mean_minmax",
    "minmax",
)
"""Rules that the search compares; a new one of :data:`detq.numerics.ranges.THRESHOLDS` joins it
here.
"""


def ranges_by(
    rules: RangesConfig, network: Network, *, symmetric: bool
) -> dict[str, tuple[Range, ...]]:
    """A range (or one per channel) for every quantizer whose part has a rule of detq's own.

    Signed tensors get a symmetric one if ``symmetric``, fine branches always.
    """
    return {
        quantizer.name: tuple(
            choose_range(
                channel,
                getattr(rules, quantizer.part),
                rules,
                symmetric=symmetric or quantizer.is_fine_branch,
            )
            for channel in network.observed[quantizer.name]
        )
        for quantizer in network.quantizers
        if getattr(rules, quantizer.part) != PLACED
    }


def proposals(
    rules: RangesConfig, network: Network, *, symmetric: bool
) -> dict[RangeMethod, dict[str, tuple[Range, ...]]]:
    """By each rule of :data:`PROPOSALS` the ranges of all quantizers."""
    return {rule: ranges_by(rules.all_by(rule), network, symmetric=symmetric) for rule in PROPOSALS}
