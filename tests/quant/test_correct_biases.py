from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops
from small_graphs import (
    Layers,
    detector,
    images,
    limits,
    relative_error,
    repvgg_like,
    run,
    through,
)

from detq.config import WeightsConfig
from detq.errors import CalibrationError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import (
    constant_value,
    consumers,
    find_node,
    nodes_of_type,
    producer,
    producers,
    replace_constant_input,
    with_outputs,
)
from detq.quant.network import Network
from detq.quant.observation import FloatNetwork
from detq.quant.passes.correct_biases import CorrectBiases
from detq.quant.passes.place_quantizers import PlaceQuantizers
from detq.quant.passes.prune_quantizers import PruneQuantizers
from detq.quant.passes.set_weight_grids import SetWeightGrids
from detq.quant.passes.split_weights import SplitWeights

IMAGES = images(8)
PLACE = (PlaceQuantizers(keep_ranges=True), SetWeightGrids())  # the same sums on every CPU
SPLIT = SplitWeights(WeightsConfig(split="cfws"))


def _with_biased_rounding(graph: DetectorGraph) -> DetectorGraph:
    """Weights just below the middle between two integer steps: rounding shifts them all down."""
    for node in nodes_of_type(graph.model, "Convolution"):
        weight = constant_value(producer(node, 1))
        assert weight is not None
        weight = weight.copy()
        weight[:, 1::2] = 0  # one of each pair, so that no grid has to grow
        step = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
        biased = np.where(weight == 0, 0, np.floor(weight / step) + 0.45) * step
        biased = np.where(
            np.abs(weight) == np.abs(weight).max((1, 2, 3), keepdims=True), weight, biased
        )
        replace_constant_input(node, 1, biased.astype(np.float32))
    return graph


def _layers() -> DetectorGraph:
    """Four layers; the last has no activation function, so that its mean is the output's."""
    make = Layers(seed=3)
    image = make.image()
    above = image
    for index, channels in enumerate((16, 16, 16)):
        above = ops.relu(make.convolution(above, channels, f"backbone.{index}"))
    return detector(image, make.convolution(above, 7, "detect.pred", kernel=1))


def _means(model: ov.Model, names: list[str]) -> list[np.ndarray]:
    """Mean of each named node's output per channel, over IMAGES."""
    model = model.clone()
    means = []
    for name in names:
        tapped = with_outputs(model, [find_node(model, name).output(0)])
        means.append(run(tapped, IMAGES).mean(axis=(0, 2, 3)))
    return means


def _bias_names(model: ov.Model) -> list[str]:
    return [consumers(node)[0].get_friendly_name() for node in nodes_of_type(model, "Convolution")]


def _placed(graph: DetectorGraph) -> Network:
    return through(graph, *PLACE, given=IMAGES)


def _corrected(placed: Network) -> Network:
    return through(placed, CorrectBiases(), given=IMAGES)


def _float(network: Network) -> ov.Model:
    return FloatNetwork(network.model).model


def test_mean_error_of_every_channel_shrinks() -> None:
    """Per layer on float inputs the error is zero by construction; here errors add up."""
    placed = _placed(_with_biased_rounding(_layers()))
    names = _bias_names(placed.model)
    exact = _means(_float(placed), names)
    before = _means(placed.model, names)
    corrected = _corrected(placed)
    assert corrected.biases_corrected == len(names) == 4
    after = _means(corrected.model, names)
    for wanted, wrong, right in zip(exact, before, after, strict=True):
        error = np.abs(wrong - wanted).mean()
        assert error > 0.002
        assert np.abs(right - wanted).mean() < error / 3


def test_first_layer_is_exact_on_the_images_it_was_measured_on() -> None:
    """Nothing above it is quantized but the image: the definition itself."""
    placed = _placed(_with_biased_rounding(_layers()))
    name = _bias_names(placed.model)[:1]
    (exact,) = _means(_float(placed), name)
    (corrected,) = _means(_corrected(placed).model, name)
    np.testing.assert_allclose(corrected, exact, atol=1e-5)


def test_only_biases_change() -> None:
    network = _placed(_layers())
    before, placed = network.model, _corrected(network).model
    limits_before = limits(before)
    assert [n.get_friendly_name() for n in placed.get_ordered_ops()] == [
        n.get_friendly_name() for n in before.get_ordered_ops()
    ]
    changed = set()
    for old, new in zip(before.get_ordered_ops(), placed.get_ordered_ops(), strict=True):
        if old.get_type_name() == "Constant" and not np.array_equal(old.get_data(), new.get_data()):
            changed.add(consumers(new)[0].get_friendly_name())
    assert changed == set(_bias_names(placed))
    for name, values in limits(placed).items():
        for old, new in zip(limits_before[name], values, strict=True):
            np.testing.assert_array_equal(old, new)


def test_function_stays_what_it_was_but_for_small_shifts() -> None:
    graph = _layers()
    corrected = _float(_corrected(_placed(graph)))
    assert relative_error(run(corrected, IMAGES), run(graph.model, IMAGES)) < 0.02


def test_float_network_has_nothing_to_correct() -> None:
    assert through(_layers(), CorrectBiases(), given=IMAGES).biases_corrected == 0


def test_split_layer_is_corrected_once_behind_its_sum() -> None:
    placed = through(repvgg_like(), SPLIT, *PLACE, given=IMAGES)
    biased = {"backbone.stem", "backbone.grouped", "detect.stem", "detect.pred"}
    before = _biases(placed.model)
    corrected = _corrected(placed)
    assert corrected.biases_corrected == len(biased) == len(before)
    after = _biases(corrected.model)
    for name, value in after.items():
        assert not np.array_equal(value, before[name]), name
    assert {split.coarse for split in placed.splits} & set(before) == {
        split.coarse for split in placed.splits if split.fine in biased
    }


def test_split_layers_mean_is_exact_behind_its_sum() -> None:
    placed = through(repvgg_like(), SPLIT, *PLACE, PruneQuantizers(elementwise=True), given=IMAGES)
    name = [placed.splits[0].total]
    (exact,) = _means(_float(placed), name)
    (wrong,) = _means(placed.model, name)
    (corrected,) = _means(_corrected(placed).model, name)
    assert np.abs(wrong - exact).max() > 1e-4
    np.testing.assert_allclose(corrected, exact, atol=1e-5)


def test_no_image_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="saw no data"):
        through(_placed(_layers()), CorrectBiases(), given=[])


def _biases(placed: ov.Model) -> dict[str, np.ndarray]:
    """Convolution name -> value of the bias added right behind it."""
    found = {}
    for node in nodes_of_type(placed, "Convolution", "GroupConvolution"):
        for user in consumers(node):
            values = [constant_value(above) for above in producers(user)]
            constants = [value for value in values if value is not None]
            if user.get_type_name() == "Add" and constants:
                found[node.get_friendly_name()] = np.array(constants[0])
    return found
