"""Ranges chosen by measurement: each tensor's grid is the one that disturbs the output least.

A rule looks at one tensor; which rule is best depends on what the network does with it, and differs
from tensor to tensor. So every rule only proposes. A trial network, whose weights are rounded and
whose activation ranges are inputs, is compared with the float network on a few images; no labels
are needed. First a tensor that no INT8 grid serves is left in float where the budget allows it,
then every group of tensors that float would help tries its proposals. A change counts only if it
helps by more than chance would have it, which keeps the search from fitting the noise of so few
images. Zero points that convolutions would pay for are kept only where they are worth it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.config import RangeMethod, RangesConfig
from detq.errors import CalibrationError
from detq.graph.execute import compile_exact
from detq.graph.surgery import (
    WEIGHTED,
    bypass,
    nodes_of_type,
    producer,
)
from detq.numerics.histogram import ActivationStatistics
from detq.numerics.output_error import output_error
from detq.numerics.ranges import Range
from detq.quant.calibration import (
    ActivationQuantizer,
    activation_nodes,
    choose_ranges,
)
from detq.quant.cost import CostModel, macs
from detq.quant.overflow import quantized_weights
from detq.quant.placement import exact_constants, readers, return_to_float
from detq.quant.zero_points import pays_for_zero_point

Image = npt.NDArray[np.float32]
Errors = npt.NDArray[np.float64]
Ranges = dict[str, list[Range]]
"""For each quantizer's name its range, or one per channel."""
Proposals = Mapping[RangeMethod, Ranges]

PROPOSALS: tuple[RangeMethod, ...] = (
    "mse",
    "kl_cfws",
    "percentile",
    "kl_entropy",
    "mean_minmax",
    "minmax",
)
FIRST_RULE: RangeMethod = PROPOSALS[0]
"""The ranges that biases are corrected on before the search."""
SCALES = (0.8, 0.9, 1.1, 1.25)
"""After the rules, ranges per tensor also try these multiples of the best so far."""
IMAGES = 24
_STOPS = (2, 4, 8, 16)  # a proposal that is worse on so many images is not tried on the others
_RANKING_IMAGES = 4
_DISTINCT = 0.02  # proposals that differ less are the same
_LEAST_GAIN = 0.002  # of the error, for a change of range
_FLOAT_GAIN = 0.01  # of the error, for a tensor left in float
_FLOAT_CANDIDATES = 6
FLOAT_MAC_SHARE = 0.045
"""At most this share of the multiplications leaves INT8, so that 95% surely stay in it."""
_FINE = 2.0**-20  # step of a grid, relative to its range, that is as good as float
FLOAT = "float"


@dataclass(frozen=True)
class SearchResult:
    """What the search decided, and the error of the network's output before and after it.

    ``methods`` names for each quantizer the rule that its range came from, with ``, signed`` if its
    zero point was given up, and ``float`` for those of ``in_float``, whose tensors stay in float.
    ``cost`` is what these are predicted to cost, as a share of the latency in plain INT8.
    """

    ranges: Ranges
    methods: Mapping[str, str]
    in_float: tuple[str, ...]
    cost: float
    start: str
    start_error: float
    error: float


@dataclass
class _State:
    """The best network so far: which grids it has, and its error on each image."""

    ranges: Ranges
    in_float: frozenset[str]
    errors: Errors
    methods: dict[str, str] = field(default_factory=dict)

    @property
    def error(self) -> float:
        return float(self.errors.mean())

    def adopt(self, ranges: Ranges, errors: Errors, method: str) -> None:
        """Give some quantizers other grids, with which the network's errors are these."""
        self.ranges.update(ranges)
        self.errors = errors
        self.methods.update(dict.fromkeys(ranges, method))


@dataclass(frozen=True)
class QuantizerGroup:
    """Quantizers that share a grid, and what the operations that read their tensors cost.

    ``cost`` is that of computing in float without the grid, ``zero_point_cost`` that of its
    zero point.
    """

    members: tuple[str, ...]
    cost: float
    mac_share: float
    per_tensor: bool
    zero_point_cost: float


def search_ranges(
    placed: ov.Model,
    exact: ov.Model,
    quantizers: Sequence[ActivationQuantizer],
    statistics: dict[str, list[ActivationStatistics]],
    config: RangesConfig,
    images: Iterable[Image],
    *,
    symmetric: bool,
    budget: float,
    progress: Callable[[int, int], None],
) -> SearchResult:
    """The range of every activation quantizer of a placed graph, which is not changed.

    The graph's weights lie on their grids and its biases are corrected; ``exact`` is the float
    graph that it was placed on. ``images`` float32 [1, 3, H, W] are kept in memory; ``budget``
    is what tensors left in float may cost, as a share of the latency in plain INT8. Raises
    CalibrationError if there was no image.
    """
    seen = list(images)
    if not seen:
        raise CalibrationError("the search for ranges saw no data; give it a readable image")
    reference = compile_exact(exact)
    samples = [(image, reference(image)[0].copy()) for image in seen]
    trial = _Trial(placed, exact, statistics, samples, frozenset(), switches=True)
    proposals = {
        rule: choose_ranges(list(quantizers), statistics, config.all_by(rule), symmetric=symmetric)
        for rule in PROPOSALS
    }
    groups = quantizer_groups(placed, quantizers)
    steps = 2 * len(groups)
    progress(0, steps)
    state, start = _best_uniform_rule(trial, proposals, frozenset())
    start_error = state.error
    state, cost, gains = _leave_in_float(
        trial, state, proposals, groups, budget, lambda done: progress(done, steps)
    )
    trial = _Trial(placed, exact, statistics, samples, state.in_float, switches=False)
    state.errors = trial.errors(state.ranges, state.in_float)
    for done, group in enumerate(groups, start=len(groups) + 1):
        if not state.in_float & set(group.members):
            if gains[group] > _LEAST_GAIN * state.error:
                _improve(trial, state, group, proposals)
            _give_up_zero_point(trial, state, group)
        progress(done, steps)
    return SearchResult(
        ranges={name: found for name, found in state.ranges.items() if name not in state.in_float},
        methods=state.methods,
        in_float=tuple(q.name for q in quantizers if q.name in state.in_float),
        cost=cost,
        start=start,
        start_error=start_error,
        error=state.error,
    )


def _best_uniform_rule(
    trial: _Trial, proposals: Proposals, in_float: frozenset[str]
) -> tuple[_State, str]:
    """The network in which every tensor follows one rule, for the best such rule."""
    errors = {rule: trial.errors(ranges, in_float) for rule, ranges in proposals.items()}
    best = min(errors, key=lambda rule: float(errors[rule].mean()))
    methods: dict[str, str] = dict.fromkeys(proposals[best], best)
    methods.update(dict.fromkeys(in_float, FLOAT))
    return _State(dict(proposals[best]), in_float, errors[best], methods), best


def _leave_in_float(
    trial: _Trial,
    state: _State,
    proposals: Proposals,
    groups: Sequence[QuantizerGroup],
    budget: float,
    progress: Callable[[int], None],
) -> tuple[_State, float, dict[QuantizerGroup, float]]:
    """Take out of INT8 what gains most for its share of the budget, while that lasts.

    One tensor that no grid serves can make the wrong rule the best for all others, so the rules
    are compared anew each time. Returns the state reached, the cost of it, and how much error
    each group would take along.
    """
    spent, share = 0.0, 0.0
    gains = _gains(trial, state, groups, progress)
    while True:
        promising = [
            group
            for group in sorted(gains, key=lambda group: -gains[group])
            if not state.in_float & set(group.members)
            and spent + group.cost <= budget
            and share + group.mac_share <= FLOAT_MAC_SHARE
        ]
        tried = {group: _without(trial, state, group) for group in promising[:_FLOAT_CANDIDATES]}
        worth = {
            group: (state.error - float(errors.mean())) / _price(group, budget)
            for group, errors in tried.items()
            if state.error - float(errors.mean()) > _FLOAT_GAIN * state.error
        }
        if not worth:
            return state, spent, gains
        best = max(worth, key=lambda group: worth[group])
        spent, share = spent + best.cost, share + best.mac_share
        state.in_float |= set(best.members)
        state.errors = tried[best]
        state.methods.update(dict.fromkeys(best.members, FLOAT))
        other, _ = _best_uniform_rule(trial, proposals, state.in_float)
        if other.error < state.error:
            state = other
            gains.update(_gains(trial, state, promising, lambda done: None))


def _gains(
    trial: _Trial,
    state: _State,
    groups: Sequence[QuantizerGroup],
    progress: Callable[[int], None],
) -> dict[QuantizerGroup, float]:
    """How much less the error is without each group's grid, roughly: on the first few images."""
    before = float(state.errors[:_RANKING_IMAGES].mean())
    gains = {}
    for done, group in enumerate(groups, start=1):
        returned = state.in_float | set(group.members)
        errors = trial.errors(state.ranges, returned, first=_RANKING_IMAGES)
        gains[group] = before - float(errors.mean())
        progress(done)
    return gains


def _price(group: QuantizerGroup, budget: float) -> float:
    """What a group uses up of the budgets; nothing is free, or crumbs would come first."""
    return 0.1 + group.cost / max(budget, 1e-9) + group.mac_share / FLOAT_MAC_SHARE


def _without(trial: _Trial, state: _State, group: QuantizerGroup) -> Errors:
    return trial.errors(state.ranges, state.in_float | set(group.members))


def _improve(trial: _Trial, state: _State, group: QuantizerGroup, proposals: Proposals) -> None:
    """Try every other proposal for one group; changes ``state`` for the better or not at all."""
    named = (
        (rule, {name: ranges[name] for name in group.members}) for rule, ranges in proposals.items()
    )
    best = {name: state.ranges[name] for name in group.members}
    scaled: Iterable[tuple[str, Ranges]] = (
        (f"{state.methods[group.members[0]]} x {scale}", _scaled(best, scale)) for scale in SCALES
    )
    seen = [best]
    for method, candidate in chain(named, scaled if group.per_tensor else ()):
        if any(_alike(candidate, other) for other in seen):
            continue
        seen.append(candidate)
        errors = trial.errors({**state.ranges, **candidate}, state.in_float, than=state.errors)
        if _is_better(errors, state.errors):
            state.adopt(candidate, errors, method)


def _give_up_zero_point(trial: _Trial, state: _State, group: QuantizerGroup) -> None:
    """Give a group a signed grid if that adds less error than it saves latency.

    Both are shares of what the network has: one per cent is worth one per cent. Changes ``state``.
    """
    before = {name: state.ranges[name] for name in group.members}
    pays = any(channel.needs_zero_point for channels in before.values() for channel in channels)
    if not pays or group.zero_point_cost == 0:
        return
    signed = {name: [channel.signed for channel in channels] for name, channels in before.items()}
    candidates = [signed, *(_scaled(signed, scale) for scale in SCALES if group.per_tensor)]

    def errors_of(candidate: Ranges, first: int | None = None) -> Errors:
        return trial.errors({**state.ranges, **candidate}, state.in_float, first=first)

    best = min(candidates, key=lambda ranges: float(errors_of(ranges, _RANKING_IMAGES).mean()))
    errors = errors_of(best)
    if float(errors.mean()) < state.error * (1 + group.zero_point_cost):
        state.adopt(best, errors, f"{state.methods[group.members[0]]}, signed")


def _is_better(errors: Errors, before: Errors) -> bool:
    """On average by more than a trifle, and by more than chance would have it."""
    if not np.isfinite(errors).all():
        return False
    gains = before - errors
    chance = gains.std() / np.sqrt(len(gains))
    return bool(gains.mean() > max(_LEAST_GAIN * before.mean(), chance))


def _scaled(ranges: Ranges, scale: float) -> Ranges:
    return {
        name: [Range(channel.low * scale, channel.high * scale) for channel in channels]
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


def quantizer_groups(
    placed: ov.Model, quantizers: Sequence[ActivationQuantizer]
) -> list[QuantizerGroup]:
    """The groups in execution order, with what each would cost in float."""
    nodes = {node.get_friendly_name(): node for node in activation_nodes(placed)}
    members: dict[str, list[ActivationQuantizer]] = {}
    for quantizer in quantizers:
        members.setdefault(quantizer.group, []).append(quantizer)
    costs = CostModel.of(placed)
    total = sum(macs(node) for node in nodes_of_type(placed, *WEIGHTED))
    groups = []
    for some in members.values():
        met = {
            reader.get_name(): reader for q in some for reader in readers(nodes[q.name])
        }.values()
        read = (producer(nodes[q.name]) for q in some)
        images = [node for node in read if node.get_type_name() == "Parameter"]
        groups.append(
            QuantizerGroup(
                members=tuple(quantizer.name for quantizer in some),
                cost=costs.in_float(met)
                + sum(costs.float_sum(nodes[q.name]) for q in some if q.is_fine_branch)
                + sum(map(costs.float_image, images)),
                mac_share=sum(macs(node) for node in met) / total,
                per_tensor=all(quantizer.channel_axis is None for quantizer in some),
                zero_point_cost=costs.zero_point(filter(pays_for_zero_point, met)),
            )
        )
    return groups


class _Trial:
    """A compiled INT8 network whose activation grids are inputs.

    ``samples`` are images and what the float network makes of them. With ``switches`` any tensor
    can be left in float, and what reads it computes in float then; this takes time, and without
    only those of ``in_float`` are.
    """

    def __init__(
        self,
        placed: ov.Model,
        exact: ov.Model,
        statistics: Mapping[str, list[ActivationStatistics]],
        samples: Sequence[tuple[Image, Image]],
        in_float: frozenset[str],
        *,
        switches: bool,
    ) -> None:
        self._samples = samples
        model = placed.clone()
        return_to_float(model, exact, in_float)
        self._read_by = {
            node.get_friendly_name(): {reader.get_friendly_name() for reader in readers(node)}
            for node in activation_nodes(model)
        }
        self._switched, switched = _switch_weights(model, exact) if switches else ([], [])
        self._names, self._shapes, ranges = _ranges_as_inputs(model)
        for node in nodes_of_type(model, "FakeQuantize"):
            bypass(node)  # weights lie on their grids already
        inputs = [*model.get_parameters(), *ranges, *switched]
        trial = ov.Model(model.get_results(), inputs, "trial")
        self._request = compile_exact(trial).create_infer_request()
        self._wide = {
            name: [_wide(channel) for channel in channels] for name, channels in statistics.items()
        }

    def errors(
        self,
        ranges: Ranges,
        in_float: frozenset[str],
        *,
        than: Errors | None = None,
        first: int | None = None,
    ) -> Errors:
        """The output error on each image, or on the ``first`` so many.

        Infinite on the later ones if it is worse ``than`` another on the first few.
        """
        inputs = [*self._grids(ranges, in_float), *self._switches(in_float)]
        samples = self._samples[:first]
        found = np.full(len(samples), np.inf)
        for index, (image, expected) in enumerate(samples):
            if index in _STOPS and than is not None and found[:index].sum() > than[:index].sum():
                break
            outputs = self._request.infer([image, *inputs], share_inputs=True)
            found[index] = output_error(expected, outputs[0])
        return found

    def _grids(self, ranges: Ranges, in_float: frozenset[str]) -> list[Image]:
        """Low end, high end and step of every quantizer, in the order of the model's inputs."""
        grids = []
        for name, shape in zip(self._names, self._shapes, strict=True):
            fine = name in in_float
            channels = self._wide[name] if fine else ranges[name]
            low = np.array([channel.low for channel in channels], np.float32).reshape(shape)
            high = np.array([channel.high for channel in channels], np.float32).reshape(shape)
            step = (high - low) * np.float32(_FINE if fine else 1 / 255)
            grids += [low, high, step]
        return grids

    def _switches(self, in_float: frozenset[str]) -> list[Image]:
        """1 for each convolution with weights to switch that computes in float, else 0."""
        returned = {reader for name in in_float for reader in self._read_by.get(name, ())}
        return [np.array([name in returned], np.float32) for name in self._switched]


def _wide(statistics: ActivationStatistics) -> Range:
    """A range that clips nothing, of a tensor that stays in float."""
    low, high = min(statistics.low, 0.0), max(statistics.high, 0.0)
    margin = 0.05 * (high - low) + 1e-3
    return Range(low - margin, high + margin)


def _ranges_as_inputs(model: ov.Model) -> tuple[list[str], list[list[int]], list[ov.Node]]:
    """Activation quantizers read low, high and step from new inputs; changes the model.

    Three inputs for each name returned, of the shapes returned.
    """
    names, shapes, inputs = [], [], []
    for node in activation_nodes(model):
        shape = list(node.input_value(1).get_shape())
        low, high, step = (ops.parameter(shape, np.float32) for _ in range(3))
        clipped = ops.minimum(ops.maximum(node.input_value(0), low), high)
        level = ops.round(ops.divide(ops.subtract(clipped, low), step), "half_to_even")
        node.output(0).replace(ops.add(ops.multiply(level, step), low).output(0))
        names.append(node.get_friendly_name())
        shapes.append(shape)
        inputs += [low, high, step]
    return names, shapes, inputs


def _switch_weights(model: ov.Model, exact: ov.Model) -> tuple[list[str], list[ov.Node]]:
    """Rounded weights, and the biases behind them, get a switch to exact ones; changes the model.

    One input for each convolution named, 0 for rounded and 1 for exact.
    """
    before = {node.get_friendly_name(): node for node in exact.get_ops()}
    names, inputs = [], []
    for convolution, _ in quantized_weights(model):
        switch = ops.parameter([1], np.float32)
        for node, index, rounded, wanted in list(exact_constants(convolution, before)):
            change = ops.multiply(ops.constant(wanted - rounded), switch)
            mixed = ops.add(ops.constant(np.asarray(rounded, np.float32)), change)
            node.input(index).replace_source_output(mixed.output(0))
        names.append(convolution.get_friendly_name())
        inputs.append(switch)
    return names, inputs
