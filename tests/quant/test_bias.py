from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops
from small_graphs import Layers, detector, images, limits, relative_error, repvgg_like, run

from detq.config import RangesConfig, Recipe, WeightsConfig
from detq.errors import CalibrationError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import (
    bypass,
    constant_value,
    consumers,
    find_node,
    nodes_of_type,
    producer,
    producers,
    replace_constant_input,
    with_outputs,
)
from detq.quant.bias import correct_biases
from detq.quant.calibration import float_twin
from detq.quant.overflow import limit_weight_pairs
from detq.quant.placement import place_quantizers
from detq.quant.split import COARSE_SUFFIX, SUM_SUFFIX, split_graph

RECIPE = Recipe(name="test", ranges=RangesConfig(backbone="minmax", neck="minmax", head="minmax"))
IMAGES = images(8)


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


def _placed(graph: DetectorGraph) -> ov.Model:
    placed = place_quantizers(graph, RECIPE, IMAGES)
    limit_weight_pairs(placed, {})  # the same sums on every CPU
    return placed


def test_mean_error_of_every_channel_shrinks() -> None:
    """Per layer on float inputs the error is zero by construction; here errors add up."""
    placed = _placed(_with_biased_rounding(_layers()))
    names = _bias_names(placed)
    exact = _means(float_twin(placed), names)
    before = _means(placed, names)
    assert correct_biases(placed, IMAGES) == len(names) == 4
    after = _means(placed, names)
    for wanted, wrong, corrected in zip(exact, before, after, strict=True):
        error = np.abs(wrong - wanted).mean()
        assert error > 0.002
        assert np.abs(corrected - wanted).mean() < error / 3


def test_first_layer_is_exact_on_the_images_it_was_measured_on() -> None:
    """Nothing above it is quantized but the image: the definition itself."""
    placed = _placed(_with_biased_rounding(_layers()))
    name = _bias_names(placed)[:1]
    (exact,) = _means(float_twin(placed), name)
    correct_biases(placed, IMAGES)
    (corrected,) = _means(placed, name)
    np.testing.assert_allclose(corrected, exact, atol=1e-5)


def test_only_biases_change() -> None:
    placed = _placed(_layers())
    before, limits_before = placed.clone(), limits(placed)
    correct_biases(placed, IMAGES)
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
    placed = _placed(graph)
    correct_biases(placed, IMAGES)
    assert relative_error(run(float_twin(placed), IMAGES), run(graph.model, IMAGES)) < 0.02


def test_float_network_has_nothing_to_correct() -> None:
    assert correct_biases(_layers().model, IMAGES) == 0


def test_split_layer_is_corrected_once_behind_its_sum() -> None:
    graph = repvgg_like()
    split_result = split_graph(graph, WeightsConfig(split="cfws"))
    split, names = split_result.graph, split_result.layers
    placed = _placed(split)
    biased = {"backbone.stem", "backbone.grouped", "detect.stem", "detect.pred"}
    before = _biases(placed)
    assert correct_biases(placed, IMAGES) == len(biased) == len(before)
    after = _biases(placed)
    for name, value in after.items():
        assert not np.array_equal(value, before[name]), name
    assert {name for name in before if name.endswith(COARSE_SUFFIX)} == {
        f"{name}{COARSE_SUFFIX}" for name in names if name in biased
    }


def test_split_layers_mean_is_exact_behind_its_sum() -> None:
    graph = repvgg_like()
    split = split_graph(graph, WeightsConfig(split="cfws")).graph
    placed = _placed(split)
    name = [f"backbone.stem{SUM_SUFFIX}"]
    for branch in producers(find_node(placed, name[0])):
        if producer(branch).get_friendly_name() != "backbone.stem":
            bypass(branch)  # as the composition does: the coarse branch is not rounded
    (exact,) = _means(float_twin(placed), name)
    (wrong,) = _means(placed, name)
    correct_biases(placed, IMAGES)
    (corrected,) = _means(placed, name)
    assert np.abs(wrong - exact).max() > 1e-4
    np.testing.assert_allclose(corrected, exact, atol=1e-5)


def test_no_image_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="saw no data"):
        correct_biases(_placed(_layers()), [])


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
