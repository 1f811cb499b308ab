"""The quantizer: split, placement, ranges and bias correction composed, as a recipe says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino._offline_transformations import compress_quantize_weights_transformation

from detq.config import Recipe
from detq.errors import CalibrationError, GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import (
    bypass,
    find_node,
    nodes_of_type,
    producers,
)
from detq.numerics.histogram import ActivationStatistics
from detq.numerics.ranges import Range
from detq.quant.bias import correct_biases
from detq.quant.calibration import (
    ActivationQuantizer,
    activation_nodes,
    activation_quantizers,
    choose_ranges,
    write_ranges,
)
from detq.quant.equalization import equalize
from detq.quant.feedback import round_to_nearest, round_weights
from detq.quant.layer_choice import SplitChoice, choose_layers
from detq.quant.observation import observe
from detq.quant.observation_store import ObservationStore
from detq.quant.overflow import limit_weight_pairs
from detq.quant.placement import drop_idle_quantizers, place_quantizers, return_to_float
from detq.quant.search import FIRST_RULE, FLOAT, SearchResult, search_ranges
from detq.quant.search import IMAGES as SEARCH_IMAGES
from detq.quant.split import SUM_SUFFIX, rounds_fine_branch, split_graph
from detq.quant.zero_points import absorb_zero_points
from detq.records import Part

Image = npt.NDArray[np.float32]
Images = Callable[[str, int | None], Iterable[Image]]
"""(stage, at most so many) -> calibration images, float32 [1, 3, H, W], afresh for every stage."""

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the number of steps done and the number of all."""

CHOICE_IMAGES = 8
ROUNDING_IMAGES = 96
"""On YOLOv6-Lite-S, 32 for this and for biases left half a point less agreement with float."""
BIAS_IMAGES = 64
"""With 96 the output error on held-back images is the same (docs/performance.md)."""


@dataclass(frozen=True)
class LayerDecision:
    """What was decided for one activation quantizer: the rule, and the grid it led to."""

    name: str
    part: Part
    method: str
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Unfinished:
    """A placed graph with ranges and rounded weights, before biases are corrected.

    ``exact`` is the float graph that it was placed on, with the weights as they were.
    """

    placed: ov.Model
    exact: ov.Model


@dataclass(frozen=True)
class QuantizedDetector:
    """An INT8 detector graph with the decisions that made it.

    ``statistics`` is what calibration saw of every tensor, by quantizer; ``unfinished`` is what
    :func:`give_back` starts from.
    """

    graph: DetectorGraph
    recipe: Recipe
    split_layers: tuple[str, ...]
    decisions: tuple[LayerDecision, ...]
    biases_corrected: int
    unfinished: Unfinished
    statistics: Mapping[str, list[ActivationStatistics]]
    split_choices: tuple[SplitChoice, ...] = ()
    search: SearchResult | None = None


def quantize_graph(
    graph: DetectorGraph,
    recipe: Recipe,
    images: Images,
    progress: Progress | None = None,
    store: ObservationStore | None = None,
) -> QuantizedDetector:
    """Float detector graph -> INT8 detector graph; the one given is not changed.

    ``progress`` hears of stages that do not read images; ``store`` keeps what was observed.

    Raises CalibrationError if ``images`` gives none, or unusable activations, and GraphError for a
    graph that is quantized already.
    """
    if nodes_of_type(graph.model, "FakeQuantize"):
        raise GraphError(f"{graph.spec.name}: is quantized already; pass the float model")
    limit_pairs = recipe.overflow_fix == "pairs"
    exact = graph
    if recipe.equalize_channels:
        exact, _ = equalize(
            graph,
            images("observing channels", None),
            store,
            into_weights=recipe.weights.granularity == "channel",
        )
    choices = _weigh_splits(exact, recipe, images)
    chosen = {choice.name for choice in choices if choice.chosen}
    layers = chosen if recipe.weights.layers == "measured" else None
    split = split_graph(exact, recipe.weights, limit_pairs=limit_pairs, layers=layers)
    placed = _place(split.graph, recipe, images)
    placed.set_friendly_name(graph.spec.name)
    if limit_pairs:
        limit_weight_pairs(placed, split.coarse_steps, bits=recipe.weights.bits)
    _keep_coarse_branch_exact(placed, split.layers)
    if not recipe.quantize_elementwise:
        drop_idle_quantizers(placed)
    quantizers = activation_quantizers(placed)
    spent = sum(choice.cost for choice in choices if choice.chosen)
    if recipe.weights.rounding == "feedback":
        round_weights(
            placed,
            lambda: images("rounding weights", ROUNDING_IMAGES),
            exact=split.coarse_steps,
            bits=recipe.weights.bits,
            limit_pairs=limit_pairs,
        )
    elif recipe.ranges.is_searched:
        round_to_nearest(placed)
    unfinished = Unfinished(placed, split.graph.model)
    budget = recipe.latency_budget - spent
    activations = _calibrate(
        unfinished, quantizers, recipe, images, store, budget, progress or _silent
    )
    final, corrected = _finish(placed, recipe, images)
    return QuantizedDetector(
        graph=DetectorGraph(final, graph.spec),
        recipe=recipe,
        split_layers=split.layers,
        decisions=tuple(_decisions(quantizers, activations)),
        biases_corrected=corrected,
        split_choices=tuple(choices),
        search=activations.search,
        statistics=activations.statistics,
        unfinished=unfinished,
    )


def give_back(
    quantized: QuantizedDetector, quantizers: Collection[str], images: Images
) -> QuantizedDetector:
    """The same with the named activation quantizers' tensors, and what reads them, in float.

    Biases are corrected anew. Raises GraphError for a quantizer that is not there.
    """
    unfinished = quantized.unfinished
    placed = unfinished.placed.clone()
    unknown = set(quantizers) - {node.get_friendly_name() for node in activation_nodes(placed)}
    if unknown:
        raise GraphError(f"{quantized.graph.spec.name}: no quantizer is named {min(unknown)!r}")
    return_to_float(placed, unfinished.exact, quantizers)
    final, corrected = _finish(placed, quantized.recipe, images)
    returned = set(quantizers)
    return replace(
        quantized,
        graph=DetectorGraph(final, quantized.graph.spec),
        biases_corrected=corrected,
        decisions=tuple(
            replace(decision, method=FLOAT, low=(), high=())
            if decision.name in returned
            else decision
            for decision in quantized.decisions
        ),
    )


def _finish(placed: ov.Model, recipe: Recipe, images: Images) -> tuple[ov.Model, int]:
    """A copy with biases corrected and weights stored in INT8, and the number of these biases."""
    model, corrected = _corrected(placed, recipe, images, "correcting biases")
    if not recipe.ranges.any_placement:
        absorb_zero_points(model)
    compress_quantize_weights_transformation(model)
    model.set_friendly_name(placed.get_friendly_name())
    return model, corrected


def _corrected(
    placed: ov.Model, recipe: Recipe, images: Images, stage: str
) -> tuple[ov.Model, int]:
    """A copy with biases corrected if the recipe asks for it, and the number of these biases."""
    model = placed.clone()
    if recipe.bias_correction != "mean_error":
        return model, 0
    return model, correct_biases(model, images(stage, BIAS_IMAGES))


def _weigh_splits(graph: DetectorGraph, recipe: Recipe, images: Images) -> list[SplitChoice]:
    """What splitting each convolution would do; nothing if the recipe does not ask."""
    if recipe.weights.layers == "all" or recipe.weights.split == "none":
        return []
    return choose_layers(
        graph,
        recipe.weights,
        lambda: images("choosing layers to split", CHOICE_IMAGES),
        budget=recipe.latency_budget,
        limit_pairs=recipe.overflow_fix == "pairs",
    )


def _place(graph: DetectorGraph, recipe: Recipe, images: Images) -> ov.Model:
    stage = "placing quantizers"
    first = list(images(stage, 1))
    if not first:
        raise CalibrationError("no calibration image could be read; nothing to calibrate with")
    sample = _Afresh(lambda: images(stage, None)) if recipe.ranges.any_placement else first
    return place_quantizers(graph, recipe, sample)


@dataclass(frozen=True)
class _Afresh:
    """Images that are read again for every pass, so that none need be kept."""

    read: Callable[[], Iterable[Image]]

    def __iter__(self) -> Iterator[Image]:
        return iter(self.read())


@dataclass(frozen=True)
class _Activations:
    """The ranges written, the rule behind each, and the search that found them, if one did."""

    ranges: dict[str, list[Range]]
    methods: Mapping[str, str]
    statistics: Mapping[str, list[ActivationStatistics]]
    search: SearchResult | None = None


def _calibrate(
    unfinished: Unfinished,
    quantizers: list[ActivationQuantizer],
    recipe: Recipe,
    images: Images,
    store: ObservationStore | None,
    budget: float,
    progress: Progress,
) -> _Activations:
    """Observe, choose and write the ranges; changes the placed graph."""
    placed = unfinished.placed
    methods = {q.name: getattr(recipe.ranges, q.part) for q in quantizers}
    if recipe.ranges.only_placement:
        return _Activations({}, methods, {})
    statistics = observe(
        placed, quantizers, images("observing", None), bins=recipe.ranges.bins, store=store
    )
    rules = recipe.ranges.all_by(FIRST_RULE) if recipe.ranges.is_searched else recipe.ranges
    symmetric = recipe.placement == "performance"
    ranges = choose_ranges(quantizers, statistics, rules, symmetric=symmetric)
    write_ranges(placed, ranges)
    if not recipe.ranges.is_searched:
        return _Activations(ranges, methods, statistics)
    found = search_ranges(
        _corrected(placed, recipe, images, "correcting biases for the search")[0],
        unfinished.exact,
        quantizers,
        statistics,
        recipe.ranges,
        list(images("reading images to search with", SEARCH_IMAGES)),
        symmetric=symmetric,
        budget=budget,
        progress=partial(progress, "searching ranges"),
    )
    write_ranges(placed, found.ranges)
    return_to_float(placed, unfinished.exact, found.in_float)
    return _Activations(found.ranges, found.methods, statistics, found)


def _keep_coarse_branch_exact(placed: ov.Model, split_layers: Iterable[str]) -> None:
    """Drop the quantizer between coarse convolution and sum; changes the model.

    The runtime adds the fine branch (INT8) to the coarse convolution's 32-bit accumulator, so
    rounding the coarse result first would only lose accuracy.
    """
    for name in split_layers:
        for branch in producers(find_node(placed, f"{name}{SUM_SUFFIX}")):
            if branch.get_type_name() == "FakeQuantize" and not rounds_fine_branch(branch):
                bypass(branch)


def _decisions(
    quantizers: list[ActivationQuantizer], activations: _Activations
) -> Iterator[LayerDecision]:
    for quantizer in quantizers:
        chosen = activations.ranges.get(quantizer.name, [])
        yield LayerDecision(
            name=quantizer.name,
            part=quantizer.part,
            method=activations.methods[quantizer.name],
            low=tuple(channel.low for channel in chosen),
            high=tuple(channel.high for channel in chosen),
        )


def _silent(stage: str, done: int, total: int) -> None:
    pass
