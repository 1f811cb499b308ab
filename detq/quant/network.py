"""The value that goes through the quantizer: a network as it stands, and what was decided so far.

Passes (:mod:`detq.quant.passes`) return a new one; none changes the models of the one it is given.
Operations are named by their friendly names, which every copy of a model keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.graph.detector_graph import DetectorGraph
from detq.numerics.histogram import ActivationStatistics
from detq.numerics.integer_range import Range
from detq.records import ModelSpec, Part

Image = npt.NDArray[np.float32]
"""A calibration image as the network reads it: [1, 3, H, W], RGB, 0..1."""
Ranges = Mapping[str, tuple[Range, ...]]
"""By the name of each quantizer its range, or one per channel."""

FLOAT = "float"
"""The rule of a quantizer whose tensor fell back to float."""
PLACED = "placement"
"""The rule of a quantizer with the range that its placement gave it."""


class Stage(IntEnum):
    """How far a network is; every pass belongs to one, whose invariant holds behind it.

    FLOAT: the model computes what the float model does. PLACED: the decode is float, and quantizers
    that meet share a grid. WEIGHTS: quantized weights lie on their grids, and no pair of 16-bit
    sums saturates. ACTIVATIONS: every quantizer has a range, or is gone. FINISHED: what was folded
    and compressed changes no output.
    """

    FLOAT = 0
    PLACED = 1
    WEIGHTS = 2
    ACTIVATIONS = 3
    FINISHED = 4


@dataclass(frozen=True)
class SplitConvolution:
    """A convolution written as a fine and a coarse one, whose outputs ``total`` adds.

    All are names; the fine one has kept that of the convolution. ``coarse_step``, (O, 1, 1, 1) or
    (1, 1, 1, 1), is the grid that the coarse kernel lies on.
    """

    fine: str
    coarse: str
    total: str
    coarse_step: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ActivationQuantizer:
    """One activation FakeQuantize: where it is, what grid it may have, and which it was given.

    ``channel_axis`` is None for one range per tensor; ``group`` is equal for quantizers that must
    share a range. ``is_fine_branch`` tells the one before the sum of a split convolution: the sum
    is fastest on a signed grid without a zero point. ``rule`` says where ``ranges`` come from, one
    or one per channel; there are none under :data:`FLOAT` and :data:`PLACED`.
    """

    name: str
    part: Part
    channel_axis: int | None
    group: str
    is_fine_branch: bool = False
    rule: str = PLACED
    ranges: tuple[Range, ...] = ()


@dataclass(frozen=True)
class MixedPrecision:
    """What was left in float, by errors of the network's output (0 for equal outputs).

    ``int8_error`` is that of the network wholly in INT8, ``error`` the one reached. ``in_float``
    fell back to float, for ``cost``, a predicted share of the latency in plain INT8.
    """

    int8_error: float
    error: float
    in_float: tuple[str, ...]
    cost: float


@dataclass(frozen=True)
class Network:
    """A detector on its way to INT8.

    ``float_model`` is what the model is to compute: the float network, with equalized channels and
    split convolutions. ``observed`` is what calibration saw of every tensor, by its quantizer.
    ``bias_shifts`` are [1, O, 1, 1] by the name of each layer: what rounding and clipping were
    last seen to take from its mean. ``did`` is one line on what the last pass did.
    """

    spec: ModelSpec
    float_model: ov.Model
    model: ov.Model
    splits: tuple[SplitConvolution, ...] = ()
    quantizers: tuple[ActivationQuantizer, ...] = ()
    observed: Mapping[str, list[ActivationStatistics]] = field(default_factory=dict)
    bias_shifts: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    biases_corrected: int = 0
    mixed: MixedPrecision | None = None
    did: str = ""

    @classmethod
    def of(cls, graph: DetectorGraph) -> Network:
        """A float detector, as it begins."""
        return cls(graph.spec, graph.model, graph.model)

    @property
    def graph(self) -> DetectorGraph:
        """The model as it stands."""
        return DetectorGraph(self.model, self.spec)

    @property
    def ranges(self) -> dict[str, tuple[Range, ...]]:
        """Those that were chosen so far."""
        return {q.name: q.ranges for q in self.quantizers if q.ranges}

    @property
    def in_float(self) -> frozenset[str]:
        """The quantizers whose tensors fell back to float."""
        return frozenset(q.name for q in self.quantizers if q.rule == FLOAT)

    def with_rules(self, rules: Mapping[str, str], ranges: Ranges) -> Network:
        """The same with other rules, and the ranges that they led to, for some quantizers."""
        changed = (
            replace(q, rule=rules[q.name], ranges=tuple(ranges.get(q.name, ())))
            if q.name in rules
            else q
            for q in self.quantizers
        )
        return replace(self, quantizers=tuple(changed))
