from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops
from small_graphs import Layers, Source, detector, images, repvgg_like, run, through

from detq.api import load_recipe
from detq.config import RangesConfig, Recipe, WeightsConfig
from detq.errors import CalibrationError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.layers import ConvLayer, grid_of, layer_of, quantized_layers
from detq.graph.surgery import (
    CONVOLUTIONS,
    bypass,
    find_node,
    nodes_of_type,
    producer,
)
from detq.quant import hessians, observation
from detq.quant.hessians import Hessians, blocks_of
from detq.quant.network import Network
from detq.quant.observation import Statistics
from detq.quant.passes.place_quantizers import PlaceQuantizers
from detq.quant.passes.round_weights import RoundWeights
from detq.quant.passes.set_weight_grids import SetWeightGrids
from detq.quant.passes.split_weights import SplitWeights
from detq.quant.quantizer import quantize_graph
from detq.quant.quantizers import activation_nodes

IMAGES = images(6)
MINMAX = RangesConfig(backbone="minmax", neck="minmax", head="minmax")
GPTQ = RoundWeights("gptq")


def _placed(graph: DetectorGraph) -> Network:
    return through(graph, PlaceQuantizers(), SetWeightGrids(), given=IMAGES)


def _weight_error(before: Network, after: Network) -> dict[str, float]:
    """By layer the squared change of the output that its rounded weights make, on IMAGES."""
    exact = {layer.name: layer for layer in quantized_layers(before.model)}
    errors = {}
    for layer in quantized_layers(after.model):
        want = Hessians(blocks_of(layer), "test", None)
        statistics = Statistics(before.model, lambda purpose, count: IMAGES)
        statistics.want([want])
        difference = layer.weight - exact[layer.name].weight
        noise = hessians.output_noise(want.layer, difference, statistics.take(want))
        errors[layer.name] = float(noise.sum())
    return errors


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
    monkeypatch.setattr(hessians, "PATCHES_PER_IMAGE", 10**6)
    model = _kinds().model
    want = Hessians(blocks_of(layer_of(find_node(model, name))), "test", None)
    statistics = Statistics(model, lambda purpose, count: IMAGES[:1])
    statistics.want([want])
    (moments,) = statistics.take(want)
    patches = _patches_by_hand(model, name, IMAGES[0])
    np.testing.assert_allclose(moments, patches.T @ patches / len(patches), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("build", [_kinds, repvgg_like])
def test_every_layer_gets_better_and_the_output_too(build: Callable[[], DetectorGraph]) -> None:
    graph = build()
    placed = _placed(graph)
    nearest, rounded = (
        through(placed, step, given=IMAGES) for step in (RoundWeights("nearest"), GPTQ)
    )
    before, after = _weight_error(placed, nearest), _weight_error(placed, rounded)
    gains = [after[name] / error for name, error in before.items() if error > 0]
    assert len(before) == len(nodes_of_type(graph.model, *CONVOLUTIONS))
    assert max(gains) < 1.05
    assert np.median(gains) < 0.8
    exact, outputs = run(graph.model, IMAGES), []
    for network in (nearest, rounded):
        model = network.model.clone()
        for node in activation_nodes(model):
            bypass(node)
        outputs.append(run(model, IMAGES))
    errors = [np.square(output - exact).mean() for output in outputs]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("method", ["nearest", "gptq"])
def test_weights_are_on_their_grids(method: str) -> None:
    placed = through(_placed(_kinds()), RoundWeights(method), given=IMAGES)  # type: ignore[arg-type]
    for layer in quantized_layers(placed.model):
        assert layer.quantizer is not None
        grid = grid_of(layer.quantizer)
        assert grid is not None
        integers = layer.weight / grid.step
        np.testing.assert_allclose(integers, np.rint(integers), atol=1e-3)
        assert np.abs(integers).max() < 127.5


def test_blocks_and_runs_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = _placed(repvgg_like())
    nearest = through(placed, RoundWeights("nearest"), given=IMAGES)
    monkeypatch.setattr(hessians, "BLOCK_INPUTS", 9 * 4)
    monkeypatch.setattr(observation, "RUN_BYTES", 1)
    rounded = through(placed, GPTQ, given=IMAGES)
    before, after = _weight_error(placed, nearest), _weight_error(placed, rounded)
    assert np.median([after[name] / before[name] for name in before]) < 0.9


def test_coarse_kernels_are_left_alone() -> None:
    split = SplitWeights(WeightsConfig(split="cfws"))
    placed = through(repvgg_like(), split, PlaceQuantizers(), SetWeightGrids(), given=IMAGES)
    rounded = through(placed, GPTQ, given=IMAGES)
    assert placed.splits
    for name in (split.coarse for split in placed.splits):
        before, after = (layer_of(find_node(n.model, name)).weight for n in (placed, rounded))
        np.testing.assert_array_equal(before, after)


def test_without_images_it_says_so() -> None:
    with pytest.raises(CalibrationError, match="rounding weights saw no data"):
        through(_placed(_kinds()), GPTQ, given=[])


@pytest.mark.parametrize("bits", [4, 6])
def test_fewer_bits_are_smaller_integers(bits: int) -> None:
    weights = WeightsConfig(bits=bits, rounding="gptq")
    recipe = Recipe(name="few", weights=weights, ranges=MINMAX)
    model = quantize_graph(_kinds(), recipe, Source(IMAGES)).graph.model
    largest = 0
    for convolution in nodes_of_type(model, *CONVOLUTIONS):
        node = producer(convolution, 1)
        while node.get_type_name() != "Constant":
            node = producer(node)
        largest = max(largest, int(np.abs(node.get_data().astype(int)).max()))
    assert largest == 2 ** (bits - 1) - 1


def test_default_recipe_rounds_by_gptq() -> None:
    assert load_recipe("measured").weights.rounding == "gptq"


def _upsampling(stride: int) -> DetectorGraph:
    """A transposed convolution of 2x2 kernels, which overlap with a ``stride`` of 1."""
    make = Layers(seed=3)
    image = make.image()
    above = ops.relu(make.convolution(image, 16, "backbone.a", stride=2))
    kernel = np.random.default_rng(3).standard_normal((16, 12, 2, 2)).astype(np.float32)
    above = ops.convolution_backprop_data(above, ops.constant(kernel), strides=[stride] * 2)
    above.set_friendly_name("neck.up")
    return detector(image, make.convolution(ops.relu(above), 7, "detect.pred", kernel=1))


def _transposed(network: Network) -> ConvLayer:
    return layer_of(find_node(network.model, "neck.up"))


def test_kernels_that_tile_are_rounded_as_kernels_of_one_tap() -> None:
    placed = _placed(_upsampling(2))
    rounded = _transposed(through(placed, GPTQ, given=IMAGES))
    assert rounded.grid is not None
    integers = rounded.weight / rounded.grid.step
    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-3)
    exact = _transposed(placed)
    source = exact.convolution.input_value(0).get_node()
    seen = run(ov.Model([ops.result(producer(source))], _parameters(source), "tap"), IMAGES)
    nearest = np.rint(exact.weight / rounded.grid.step) * rounded.grid.step
    errors = [
        np.square(np.einsum("ioab,nihw->noahbw", weight - exact.weight, seen)).mean()
        for weight in (nearest, rounded.weight)
    ]
    assert errors[1] < 0.8 * errors[0]


def test_kernels_that_overlap_are_left_to_their_quantizer() -> None:
    placed = _placed(_upsampling(1))
    rounded = through(placed, GPTQ, given=IMAGES)
    np.testing.assert_array_equal(_transposed(rounded).weight, _transposed(placed).weight)
