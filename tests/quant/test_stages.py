"""What holds behind every pass, whatever the network and the recipe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openvino import opset15 as ops
from small_graphs import Layers, Source, detector, images, limits, relative_error, run

from detq.api import builtin_recipes, load_recipe
from detq.config import Recipe
from detq.graph.detector_graph import DetectorGraph
from detq.graph.digest import digest
from detq.graph.layers import grid_of, quantized_layers
from detq.graph.surgery import nodes_of_type, producer
from detq.numerics.cfws import PAIR_LIMIT
from detq.quant.network import FLOAT, PLACED, Network, Stage
from detq.quant.observation import FloatNetwork
from detq.quant.passes.correct_biases import CorrectBiases
from detq.quant.passes.place_quantizers import decode_nodes
from detq.quant.pipeline import Pass, options_of, run_passes
from detq.quant.recipes import passes_of
from detq.records import ReparamConvolution

IMAGES = images(2)
RECIPES = sorted(path.stem for path in builtin_recipes())
KINDS = ["cfws_kl", "measured", "minmax", "nncf"]  # recipes with different passes


@st.composite
def networks(draw: st.DrawFn) -> DetectorGraph:
    """Convolutions of several kinds, sums, joins and pools, some of them re-parameterized."""
    make = Layers(seed=draw(st.integers(0, 999)), outlier=draw(st.sampled_from([1.0, 12.0, 40.0])))
    image = make.image()
    names: list[ReparamConvolution] = []

    def block(above: ov.Node, name: str, **options: int) -> ov.Node:
        channels = 8 * draw(st.integers(1, 2))
        groups = draw(st.sampled_from([1, 1, 1, 4, 8]))
        if above.get_output_shape(0)[1] % groups or channels % groups:
            groups = 1
        kernel = draw(st.sampled_from([3, 3, 1]))
        bias = draw(st.booleans())
        node = make.convolution(
            above, channels, name, kernel=kernel, groups=groups, bias=bias, **options
        )
        if kernel == 3 and draw(st.booleans()):
            part = name.partition(".")[0]
            names.append(ReparamConvolution(name, part))  # type: ignore[arg-type]
        return draw(st.sampled_from([ops.relu, ops.swish, ops.hswish]))(node)

    stem = block(image, "backbone.stem", stride=2)
    first, second = block(stem, "backbone.first"), block(stem, "backbone.second")
    if draw(st.booleans()) and first.get_output_shape(0) == second.get_output_shape(0):
        joined = ops.add(first, second)
    else:
        pooled = ops.max_pool(first, [1, 1], [1, 1], [1, 1], [1, 1], [3, 3], "floor").output(0)
        joined = ops.concat([first, pooled, second], 1)
    neck = block(joined, "neck.mix")
    return detector(image, make.convolution(neck, 7, "detect.pred", kernel=1), names)


def _decode_is_float(network: Network, decode: Sequence[str]) -> bool:
    return not any(
        producer(node).get_friendly_name() in decode
        for node in nodes_of_type(network.model, "FakeQuantize")
    )


def _worst_pair(integers: np.ndarray) -> float:
    """The largest sum of two neighbouring input channels' weights of one sign."""
    pairs = integers[:, : integers.shape[1] // 2 * 2].reshape(
        len(integers), integers.shape[1] // 2, 2, -1
    )
    both = [np.maximum(pairs, 0).sum(2), np.maximum(-pairs, 0).sum(2)]
    return float(np.max(both, initial=0))


def _check_quantizers(network: Network) -> None:
    """Those that are recorded are those of the model, and say what is written there."""
    placed = limits(network.model)
    left = [quantizer for quantizer in network.quantizers if quantizer.rule != FLOAT]
    names = {
        node.get_friendly_name()
        for node in nodes_of_type(network.model, "FakeQuantize")
        if producer(node).get_type_name() != "Constant"
    }
    assert {quantizer.name for quantizer in left} == names
    groups: dict[str, set[bytes]] = {}
    for quantizer in left:
        low, high = placed[quantizer.name][:2]
        if quantizer.ranges:
            np.testing.assert_allclose(low.ravel(), [r.low for r in quantizer.ranges], rtol=1e-6)
            np.testing.assert_allclose(high.ravel(), [r.high for r in quantizer.ranges], rtol=1e-6)
            if quantizer.channel_axis is None:
                groups.setdefault(quantizer.group, set()).add(low.tobytes() + high.tobytes())
        else:
            assert quantizer.rule == PLACED
    assert all(len(grids) == 1 for grids in groups.values())


def _check_weights(network: Network, *, pairs: bool) -> None:
    for layer in quantized_layers(network.model):
        assert layer.quantizer is not None
        grid = grid_of(layer.quantizer)
        assert grid is not None
        np.testing.assert_allclose(
            grid.nearest(layer.weight), layer.weight, atol=1e-3 * float(grid.step.max())
        )
        if pairs:
            step = np.broadcast_to(grid.step, (*layer.weight.shape[:-3], 1, 1, 1))
            integers = np.rint(layer.weight / step).reshape(layer.kernels.shape)
            assert _worst_pair(integers) <= PAIR_LIMIT


def _check(
    before: Network, after: Network, one: Pass, graph: DetectorGraph, recipe: Recipe
) -> None:
    """The invariant of the stage that a pass leads to."""
    if one.stage == Stage.FLOAT:
        exact = run(graph.model, IMAGES)
        assert relative_error(run(after.model, IMAGES), exact) < 1e-5
        assert after.float_model is after.model
    if one.stage == Stage.PLACED:
        if not recipe.bias_correction.startswith("nncf"):
            found = run(FloatNetwork(after.model).model, IMAGES)
            np.testing.assert_allclose(found, run(after.float_model, IMAGES), rtol=1e-4, atol=1e-5)
        assert recipe.quantize_decode or _decode_is_float(after, decode_nodes(graph))
    if one.stage in (Stage.PLACED, Stage.WEIGHTS, Stage.ACTIVATIONS):
        _check_quantizers(after)
    if one.stage == Stage.WEIGHTS:
        _check_weights(after, pairs=recipe.overflow_fix == "pairs")
    if one.stage == Stage.ACTIVATIONS:
        assert all(q.ranges or q.rule in (FLOAT, PLACED) for q in after.quantizers)
    if one.stage == Stage.FINISHED and not isinstance(one, CorrectBiases):
        found = run(after.model, IMAGES)
        np.testing.assert_allclose(found, run(before.model, IMAGES), rtol=1e-3, atol=1e-3)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(graph=networks(), name=st.sampled_from(KINDS))
def test_every_pass_keeps_what_its_stage_promises(graph: DetectorGraph, name: str) -> None:
    recipe = load_recipe(name).model_copy(update={"latency_budget": 0.5})
    network = Network.of(graph)
    for one in passes_of(recipe):
        given_models = [digest(network.model), digest(network.float_model)]
        after, (step,) = run_passes(network, [one], Source(IMAGES))
        assert [digest(network.model), digest(network.float_model)] == given_models
        assert (step.name, step.options) == (one.name, options_of(one))
        _check(network, after, one, graph, recipe)
        network = after


@pytest.mark.parametrize("name", RECIPES)
def test_stages_come_in_order(name: str) -> None:
    stages = [one.stage for one in passes_of(load_recipe(name))]
    assert stages == sorted(stages)
    assert stages[-1] == Stage.FINISHED


def test_no_pass_imports_another() -> None:
    from test_layering import MODULES, imported_by

    passes = [name for name in MODULES if name.startswith("detq.quant.passes.")]
    assert len(passes) > 10
    for name in passes:
        assert not imported_by(name) & set(passes), name


def test_neighbours_that_add_up_are_found() -> None:
    """The check of pairs itself."""
    assert _worst_pair(np.array([100.0, 28, -5, 7]).reshape(1, 4, 1, 1)) == 128
    assert _worst_pair(np.array([-100.0, -29, 5, 7]).reshape(1, 4, 1, 1)) == 129
