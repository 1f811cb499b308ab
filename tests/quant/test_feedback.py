from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops
from small_graphs import Layers, Source, detector, images, repvgg_like, run

from detq.api import load_recipe
from detq.config import RangesConfig, Recipe, WeightsConfig
from detq.errors import CalibrationError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import CONVOLUTIONS, bypass, constant_value, nodes_of_type, producer
from detq.quant import feedback
from detq.quant.calibration import activation_nodes
from detq.quant.feedback import layer_of, observe_moments, round_weights
from detq.quant.overflow import limit_weight_pairs
from detq.quant.placement import place_quantizers
from detq.quant.ptq import quantize_graph

IMAGES = images(6)
MINMAX = RangesConfig(backbone="minmax", neck="minmax", head="minmax")
PLAIN = Recipe(name="test", ranges=MINMAX)


def _placed(graph: DetectorGraph) -> ov.Model:
    placed = place_quantizers(graph, PLAIN, IMAGES)
    limit_weight_pairs(placed, {})
    return placed


def _kinds() -> DetectorGraph:
    """Strided, dilated, grouped, depthwise and pointwise convolutions."""
    make = Layers(seed=2)
    image = make.image()
    above = ops.relu(make.convolution(image, 16, "backbone.a", stride=2))
    above = ops.relu(make.convolution(above, 16, "backbone.b", groups=4))
    above = ops.relu(make.convolution(above, 16, "backbone.c", groups=16, kernel=5))
    above = ops.relu(make.convolution(above, 12, "backbone.d", dilation=2))
    return detector(image, make.convolution(above, 7, "detect.pred", kernel=1))


def _patches_by_hand(model: ov.Model, name: str, image: np.ndarray) -> np.ndarray:
    """All input patches of a 3x3 convolution, (P, C * 9), by plain loops."""
    node = next(n for n in model.clone().get_ops() if n.get_friendly_name() == name)
    tapped = ov.Model([ops.result(node.input_value(0))], _parameters(node), "tap")
    tensor = run(tapped, [image])[0]
    stride = node.get_attributes()["strides"][0]
    padded = np.pad(tensor, ((0, 0), (1, 1), (1, 1)))
    rows, columns = node.get_output_shape(0)[2:]
    return np.array(
        [
            padded[:, y * stride : y * stride + 3, x * stride : x * stride + 3].reshape(-1)
            for y in range(rows)
            for x in range(columns)
        ]
    )


def _parameters(node: ov.Node) -> list[ov.Node]:
    while node.get_type_name() != "Parameter":
        node = producer(node)
    return [node]


@pytest.mark.parametrize("name", ["backbone.a"])
def test_moments_are_those_of_the_patches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "PATCHES_PER_IMAGE", 10**6)
    model = _kinds().model
    layer = next(
        layer_of(node)
        for node in nodes_of_type(model, *CONVOLUTIONS)
        if node.get_friendly_name() == name
    )
    (moments,) = observe_moments(model, [layer], IMAGES[:1])[name]
    patches = _patches_by_hand(model, name, IMAGES[0])
    np.testing.assert_allclose(moments, patches.T @ patches / len(patches), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("build", [_kinds, repvgg_like])
def test_every_layer_gets_better_and_the_output_too(build: Callable[[], DetectorGraph]) -> None:
    graph = build()
    nearest, rounded = _placed(graph), _placed(graph)
    gains = round_weights(rounded, lambda: IMAGES, limit_pairs=True)
    assert len(gains) == len(nodes_of_type(graph.model, *CONVOLUTIONS))
    assert max(gains.values()) < 1.05
    assert np.median(list(gains.values())) < 0.8
    exact = run(graph.model, IMAGES)
    for model in (nearest, rounded):
        for node in activation_nodes(model):
            bypass(node)
    errors = [np.square(run(model, IMAGES) - exact).mean() for model in (nearest, rounded)]
    assert errors[1] < 0.8 * errors[0]


def test_weights_are_on_their_grids() -> None:
    placed = _placed(_kinds())
    round_weights(placed, lambda: IMAGES, limit_pairs=True)
    for convolution in nodes_of_type(placed, *CONVOLUTIONS):
        quantizer = producer(convolution, 1)
        weight = constant_value(producer(quantizer, 0))
        low, high = (constant_value(producer(quantizer, index)) for index in (1, 2))
        integers = weight / ((high - low) / 254)
        np.testing.assert_allclose(integers, np.rint(integers), atol=1e-3)
        assert np.abs(integers).max() < 127.5


def test_blocks_and_passes_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "BLOCK_INPUTS", 9 * 4)
    monkeypatch.setattr(feedback, "PASS_BYTES", 1)
    gains = round_weights(_placed(repvgg_like()), lambda: IMAGES, limit_pairs=True)
    assert np.median(list(gains.values())) < 0.9


def test_exact_layers_are_left_alone() -> None:
    graph = _kinds()
    placed = _placed(graph)
    gains = round_weights(placed, lambda: IMAGES, exact=["backbone.b"], limit_pairs=True)
    assert "backbone.b" not in gains
    node = next(n for n in placed.get_ops() if n.get_friendly_name() == "backbone.b")
    stored = constant_value(producer(producer(node, 1)))
    original = next(n for n in graph.model.get_ops() if n.get_friendly_name() == "backbone.b")
    np.testing.assert_array_equal(stored, constant_value(producer(original, 1)))


def test_without_images_it_says_so() -> None:
    with pytest.raises(CalibrationError, match="rounding saw no data"):
        round_weights(_placed(_kinds()), list, limit_pairs=True)


@pytest.mark.parametrize("bits", [4, 6])
def test_fewer_bits_are_smaller_integers(bits: int) -> None:
    weights = WeightsConfig(bits=bits, rounding="feedback")
    recipe = Recipe(name="few", weights=weights, ranges=MINMAX)
    model = quantize_graph(_kinds(), recipe, Source(IMAGES)).graph.model
    largest = 0
    for convolution in nodes_of_type(model, *CONVOLUTIONS):
        node = producer(convolution, 1)
        while node.get_type_name() != "Constant":
            node = producer(node)
        largest = max(largest, int(np.abs(node.get_data().astype(int)).max()))
    assert largest == 2 ** (bits - 1) - 1


def test_default_recipe_rounds_with_feedback() -> None:
    assert load_recipe("measured").weights.rounding == "feedback"
