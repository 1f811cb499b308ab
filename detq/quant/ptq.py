"""The quantizer: split, placement, ranges and bias correction composed, as a recipe says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino._offline_transformations import compress_quantize_weights_transformation

from detq.config import Recipe
from detq.errors import CalibrationError, GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import bypass, find_node, nodes_of_type, producer, producers
from detq.quant.bias import correct_biases
from detq.quant.calibration import (
    ActivationQuantizer,
    activation_quantizers,
    choose_ranges,
    observe,
    write_ranges,
)
from detq.quant.overflow import limit_weight_pairs
from detq.quant.placement import place_quantizers
from detq.quant.ranges import Range
from detq.quant.split import SUM_SUFFIX, split_graph

Image = npt.NDArray[np.float32]
Images = Callable[[str, int | None], Iterable[Image]]
"""(stage, at most so many) -> calibration images, float32 [1, 3, H, W], afresh for every stage."""

BIAS_IMAGES = 32
"""Means over this many images are exact enough; each costs two inferences."""


@dataclass(frozen=True)
class LayerDecision:
    """What was decided for one activation quantizer: the rule, and the grid it led to."""

    name: str
    part: str
    method: str
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class QuantizedDetector:
    """An INT8 detector graph with the decisions that made it."""

    graph: DetectorGraph
    recipe: Recipe
    split_layers: tuple[str, ...]
    decisions: tuple[LayerDecision, ...]
    biases_corrected: int


def quantize_graph(graph: DetectorGraph, recipe: Recipe, images: Images) -> QuantizedDetector:
    """Float detector graph -> INT8 detector graph; the one given is not changed.

    Raises CalibrationError if ``images`` gives none, or unusable activations, and GraphError for a
    graph that is quantized already.
    """
    if nodes_of_type(graph.model, "FakeQuantize"):
        raise GraphError(f"{graph.spec.name}: is quantized already; pass the float model")
    limit_pairs = recipe.overflow_fix == "pairs"
    split = split_graph(graph, recipe.weights, limit_pairs=limit_pairs)
    stage = "placing quantizers"
    first = list(images(stage, 1))
    if not first:
        raise CalibrationError("no calibration image could be read; nothing to calibrate with")
    sample = _Afresh(lambda: images(stage, None)) if recipe.ranges.any_placement else first
    placed = place_quantizers(split.graph, recipe, sample)
    if limit_pairs:
        limit_weight_pairs(placed, split.coarse_steps)
    _keep_coarse_branch_exact(placed, split.layers)
    quantizers = activation_quantizers(placed)
    ranges = {} if recipe.ranges.only_placement else _calibrate(placed, quantizers, recipe, images)
    corrected = 0
    if recipe.bias_correction == "mean_error":
        corrected = correct_biases(placed, images("correcting biases", BIAS_IMAGES))
    compress_quantize_weights_transformation(placed)
    placed.set_friendly_name(graph.spec.name)
    return QuantizedDetector(
        graph=DetectorGraph(placed, graph.spec),
        recipe=recipe,
        split_layers=split.layers,
        decisions=tuple(_decisions(quantizers, ranges, recipe)),
        biases_corrected=corrected,
    )


@dataclass(frozen=True)
class _Afresh:
    """Images that are read again for every pass, so that none need be kept."""

    read: Callable[[], Iterable[Image]]

    def __iter__(self) -> Iterator[Image]:
        return iter(self.read())


def _calibrate(
    placed: ov.Model, quantizers: list[ActivationQuantizer], recipe: Recipe, images: Images
) -> dict[str, list[Range]]:
    """Observe, choose and write the ranges; changes the model."""
    statistics = observe(placed, quantizers, images("observing", None), bins=recipe.ranges.bins)
    symmetric = recipe.placement == "performance"
    ranges = choose_ranges(quantizers, statistics, recipe.ranges, symmetric=symmetric)
    write_ranges(placed, ranges)
    return ranges


def _keep_coarse_branch_exact(placed: ov.Model, split_layers: Iterable[str]) -> None:
    """Drop the quantizer between coarse convolution and sum; changes the model.

    The runtime adds the fine branch (INT8) to the coarse convolution's 32-bit accumulator, so
    rounding the coarse result first would only lose accuracy.
    """
    for name in split_layers:
        for branch in producers(find_node(placed, f"{name}{SUM_SUFFIX}")):
            is_fine = producer(branch).get_friendly_name() == name
            if branch.get_type_name() == "FakeQuantize" and not is_fine:
                bypass(branch)


def _decisions(
    quantizers: list[ActivationQuantizer], ranges: dict[str, list[Range]], recipe: Recipe
) -> Iterator[LayerDecision]:
    for quantizer in quantizers:
        chosen = ranges.get(quantizer.name, [])
        yield LayerDecision(
            name=quantizer.name,
            part=quantizer.part,
            method=getattr(recipe.ranges, quantizer.part),
            low=tuple(channel.low for channel in chosen),
            high=tuple(channel.high for channel in chosen),
        )
