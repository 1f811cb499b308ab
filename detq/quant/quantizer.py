"""Float detector graph -> INT8 detector graph, as a recipe says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from detq.config import Recipe, WeightsConfig
from detq.errors import GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.numerics.histogram import ActivationStatistics
from detq.progress import Progress, silent
from detq.quant.fallback import fall_back
from detq.quant.network import ActivationQuantizer, MixedPrecision, Network, Stage
from detq.quant.observation import Images
from detq.quant.observation_store import ObservationStore
from detq.quant.passes.split_weights import SplitWeights
from detq.quant.pipeline import Step, run_passes
from detq.quant.recipes import finishing_passes, passes_of


@dataclass(frozen=True)
class QuantizedDetector:
    """An INT8 detector graph with the decisions that made it.

    ``unfinished`` is the network behind the last choice, before biases are corrected and weights
    stored as integers: what a fallback to float starts from. ``steps`` tell what each pass did.
    """

    graph: DetectorGraph
    recipe: Recipe
    unfinished: Network
    biases_corrected: int
    steps: tuple[Step, ...]

    @property
    def split_layers(self) -> tuple[str, ...]:
        """The names of the convolutions that were split, in the order of the specification."""
        return tuple(split.fine for split in self.unfinished.splits)

    @property
    def quantizers(self) -> tuple[ActivationQuantizer, ...]:
        """What was decided for every activation, in execution order."""
        return self.unfinished.quantizers

    @property
    def statistics(self) -> Mapping[str, list[ActivationStatistics]]:
        """What calibration saw of every tensor, by its quantizer."""
        return self.unfinished.observed

    @property
    def mixed(self) -> MixedPrecision | None:
        """What was left in float for the sake of the output, if anything was tried."""
        return self.unfinished.mixed


def quantize_graph(
    graph: DetectorGraph,
    recipe: Recipe,
    images: Images,
    progress: Progress = silent,
    store: ObservationStore | None = None,
) -> QuantizedDetector:
    """Float detector graph -> INT8 detector graph; the one given is not changed.

    ``progress`` hears of stages that do not read images; ``store`` keeps what was observed.

    Raises CalibrationError if ``images`` gives none, or unusable activations, and GraphError for a
    graph that is quantized already.
    """
    if graph.is_quantized:
        raise GraphError(f"{graph.spec.name}: is quantized already; pass the float model")
    choosing = [one for one in passes_of(recipe) if one.stage < Stage.FINISHED]
    unfinished, steps = run_passes(
        Network.of(graph), choosing, images, store=store, report=progress
    )
    return _finished(unfinished, recipe, images, steps)


def split_graph(graph: DetectorGraph, weights: WeightsConfig) -> Network:
    """The float network with all layers split that the configuration names, if it names any."""
    network = Network.of(graph)
    if weights.split == "none":
        return network
    return SplitWeights(weights).split(network)


def fall_back_to_float(
    quantized: QuantizedDetector, quantizers: Collection[str], images: Images
) -> QuantizedDetector:
    """The same with the named activation quantizers' tensors, and what reads them, in float.

    Biases are corrected anew. Raises GraphError for a quantizer that is not there.
    """
    unfinished, recipe = fall_back(quantized.unfinished, quantizers), quantized.recipe
    before = quantized.steps[: -len(finishing_passes(recipe))]  # these are done anew
    return _finished(unfinished, recipe, images, before)


def _finished(
    unfinished: Network,
    recipe: Recipe,
    images: Images,
    steps: tuple[Step, ...],
) -> QuantizedDetector:
    final, more = run_passes(unfinished, finishing_passes(recipe), images)
    final.model.set_friendly_name(unfinished.spec.name)
    return QuantizedDetector(
        graph=final.graph,
        recipe=recipe,
        unfinished=unfinished,
        biases_corrected=final.biases_corrected,
        steps=(*steps, *more),
    )
