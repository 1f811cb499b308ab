from __future__ import annotations

from collections.abc import Callable

import nncf
import numpy as np
import openvino as ov
import pytest
from small_graphs import (
    Source,
    fingerprint,
    images,
    limits,
    pyramid,
    relative_error,
    repvgg_like,
    run,
)

from detq.api import load_recipe
from detq.config import RangesConfig, Recipe, WeightsConfig
from detq.errors import CalibrationError, ConfigError, GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import constant_value, find_node, nodes_of_type, producer, producers
from detq.numerics.cfws import quantize_weight
from detq.quant.passes.correct_biases import BIAS_IMAGES
from detq.quant.passes.place_quantizers import decode_nodes, quiet_nncf
from detq.quant.quantizer import QuantizedDetector, quantize_graph
from detq.quant.recipes import passes_of
from detq.runtime.execution import convolution_macs, executed_convolutions, precision_shares

IMAGES = images(6)
CFWS = Recipe(
    name="cfws",
    weights=WeightsConfig(split="cfws"),
    ranges=RangesConfig(backbone="minmax", neck="minmax", head="minmax"),
)


def _int8_share(model: ov.Model) -> float:
    macs = convolution_macs(model)
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return precision_shares(executed_convolutions(compiled, macs)).get("int8", 0)


@pytest.fixture(scope="module")
def real(golden_graph: Callable[[str], DetectorGraph]) -> tuple[DetectorGraph, QuantizedDetector]:
    """A golden YOLOv6 in float and in INT8 by the default recipe."""
    graph = golden_graph("yolov6s_nc3")
    return graph, quantize_graph(graph, load_recipe("cfws_kl"), Source(images(4, size=160)))


@pytest.mark.parametrize("build", [repvgg_like, pyramid])
@pytest.mark.parametrize("placement", ["mixed", "performance"])
def test_int8_graph_is_close_and_executes_int8(
    build: Callable[[], DetectorGraph], placement: str
) -> None:
    graph = build()
    recipe = CFWS.model_copy(update={"placement": placement})
    result = quantize_graph(graph, recipe, Source(IMAGES))
    assert result.graph.spec == graph.spec
    assert _int8_share(result.graph.model) >= 0.95
    assert relative_error(run(result.graph.model, IMAGES), run(graph.model, IMAGES)) < 0.1


def test_real_network_executes_int8(real: tuple[DetectorGraph, QuantizedDetector]) -> None:
    graph, result = real
    assert _int8_share(graph.model) == 0
    assert _int8_share(result.graph.model) >= 0.95


@pytest.mark.parametrize("elementwise", [True, False])
def test_sum_of_a_split_is_done_inside_the_coarse_convolution(elementwise: bool) -> None:
    """In INT8 on a signed grid; a sum of its own would move four bytes a value three times."""
    recipe = CFWS.model_copy(update={"quantize_elementwise": elementwise})
    result = quantize_graph(repvgg_like(), recipe, Source(IMAGES))
    compiled = ov.compile_model(result.graph.model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    together = [
        str(node.get_rt_info()["originalLayersNames"].value).split(",")
        for node in compiled.get_runtime_model().get_ops()
    ]
    assert result.unfinished.splits
    for split in result.unfinished.splits:
        (joined,) = [names for names in together if split.total in names]
        assert split.coarse in joined
        (rounding,) = [
            above
            for above in producers(find_node(result.graph.model, split.total))
            if above.get_type_name() == "FakeQuantize"
        ]
        low, high = limits(result.graph.model)[rounding.get_friendly_name()][:2]
        assert low == pytest.approx(-high * 128 / 127)


@pytest.mark.parametrize("name", ["yolov6m", "yolov6n_opt", "yolov6s_mbla", "yolov6_lite_s"])
def test_no_family_has_a_float_convolution_unasked(
    golden_graph: Callable[[str], DetectorGraph], name: str
) -> None:
    """But for squeeze and excite, which sees one pixel and is nothing to speed up."""
    graph = golden_graph(name)
    height, width = graph.spec.size_hw
    samples = images(2, size=(height, width))
    result = quantize_graph(graph, load_recipe("cfws_kl"), Source(samples))
    macs = convolution_macs(result.graph.model)
    compiled = ov.Core().compile_model(
        result.graph.model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    in_float = [
        convolution.name
        for convolution in executed_convolutions(compiled, macs)
        if convolution.precision != "int8" and ".se." not in convolution.name
    ]
    assert not in_float


def test_decode_of_a_real_network_stays_float(
    real: tuple[DetectorGraph, QuantizedDetector],
) -> None:
    graph, result = real
    decode = set(decode_nodes(graph))
    kept = [n for n in result.graph.model.get_ops() if n.get_friendly_name() in decode]
    assert len(kept) >= len(decode) / 2
    quantizers = {n.get_name() for n in nodes_of_type(result.graph.model, "FakeQuantize")}
    for node in kept:
        assert not quantizers & {above.get_name() for above in producers(node)}


def test_real_network_splits_its_blocks(real: tuple[DetectorGraph, QuantizedDetector]) -> None:
    graph, result = real
    assert result.split_layers == tuple(conv.name for conv in graph.spec.reparameterized)
    assert result.biases_corrected >= len(result.split_layers)
    assert {quantizer.rule for quantizer in result.quantizers} == {"kl_cfws"}
    assert all(quantizer.ranges for quantizer in result.quantizers)


def test_weights_are_stored_as_integers() -> None:
    model = quantize_graph(repvgg_like(), CFWS, Source(IMAGES)).graph.model
    for node in nodes_of_type(model, "Convolution", "GroupConvolution"):
        above = producer(node, 1)
        while above.get_type_name() != "Constant":
            above = producer(above)
        assert above.get_output_element_type(0) in (ov.Type.i8, ov.Type.u8)


def test_coarse_weights_lose_nothing() -> None:
    graph = repvgg_like()
    model = quantize_graph(graph, CFWS, Source(IMAGES)).graph.model
    whole = constant_value(producer(find_node(graph.model, "backbone.stem"), 1))
    assert whole is not None
    coarse = producer(find_node(model, "backbone.stem/coarse"), 1)
    stored = run(
        ov.Model([ov.opset15.result(coarse)], model.get_parameters(), "weights"), IMAGES[:1]
    )
    np.testing.assert_allclose(
        stored, quantize_weight(whole[:, :, 1:2, 1:2], limit_pairs=True), rtol=1e-5, atol=1e-7
    )


def test_coarse_branch_is_added_without_rounding_and_the_fine_one_with() -> None:
    result = quantize_graph(repvgg_like(), CFWS, Source(IMAGES))
    assert result.unfinished.splits
    for split in result.unfinished.splits:
        joined = producers(find_node(result.graph.model, split.total))
        quantized = [above for above in joined if above.get_type_name() == "FakeQuantize"]
        assert [producer(above).get_friendly_name() for above in quantized] == [split.fine]


def test_recipe_nncf_is_what_nncf_does_by_default() -> None:
    graph = pyramid()
    result = quantize_graph(graph, load_recipe("nncf"), Source(IMAGES))
    with quiet_nncf():
        expected = nncf.quantize(graph.model.clone(), nncf.Dataset(IMAGES))
    np.testing.assert_array_equal(run(result.graph.model, IMAGES), run(expected, IMAGES))
    ours, theirs = limits(result.graph.model), limits(expected)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        for own, other in zip(ours[name], values, strict=True):
            np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("recipe", ["cfws_kl", "minmax", "nncf"])
def test_no_images_are_an_error(recipe: str) -> None:
    with pytest.raises(CalibrationError, match="no calibration image"):
        quantize_graph(repvgg_like(), load_recipe(recipe), Source([]))


def test_quantized_graph_is_an_error() -> None:
    result = quantize_graph(repvgg_like(), CFWS, Source(IMAGES[:1]))
    with pytest.raises(GraphError, match="is quantized already"):
        quantize_graph(result.graph, CFWS, Source(IMAGES))


@pytest.mark.parametrize("recipe", ["cfws_kl", "nncf"])
def test_float_graph_is_untouched(recipe: str) -> None:
    graph = repvgg_like()
    before = fingerprint(graph.model)
    quantize_graph(graph, load_recipe(recipe), Source(IMAGES[:2]))
    assert fingerprint(graph.model) == before


def test_same_images_give_the_same_graph() -> None:
    graph = pyramid()
    results = [quantize_graph(graph, CFWS, Source(IMAGES)) for _ in range(2)]
    assert results[0].quantizers == results[1].quantizers
    first, second = (run(result.graph.model, IMAGES[:1]) for result in results)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("recipe", "stages"),
    [
        ("cfws_kl", {"placing quantizers": 1, "observing": None, "correcting biases": BIAS_IMAGES}),
        ("nncf", {"placing quantizers": None}),
    ],
)
def test_stages_ask_for_what_they_need(recipe: str, stages: dict[str, int | None]) -> None:
    source = Source(IMAGES)
    quantize_graph(repvgg_like(), load_recipe(recipe), source)
    assert dict(source.asked) == stages


@pytest.fixture(scope="module")
def by_recipe() -> dict[str, QuantizedDetector]:
    graph = repvgg_like()
    names = ("cfws_kl", "cfws_minmax", "kl", "minmax", "mean_minmax", "nncf")
    recipes = {name: load_recipe(name) for name in names}
    for name in ("cfws_kl", "kl"):  # whose guard finds nothing in so small a network worth clipping
        ranges = recipes[name].ranges.model_copy(update={"kl_least_gain": 1.0})
        recipes[f"{name}, no guard"] = recipes[name].model_copy(update={"ranges": ranges})
    return {n: quantize_graph(graph, recipe, Source(IMAGES)) for n, recipe in recipes.items()}


@pytest.mark.parametrize(
    ("name", "split", "corrected"),
    [("cfws_kl", 4, 4), ("cfws_minmax", 4, 4), ("kl", 0, 4), ("minmax", 0, 4), ("nncf", 0, 0)],
)
def test_recipes_do_what_they_say(
    by_recipe: dict[str, QuantizedDetector], name: str, split: int, corrected: int
) -> None:
    result = by_recipe[name]
    assert result.recipe.name == name
    assert len(result.split_layers) == split
    assert result.biases_corrected == corrected
    rules = {"cfws_kl": "kl_cfws", "kl": "kl_cfws", "cfws_minmax": "minmax", "nncf": "placement"}
    assert {quantizer.rule for quantizer in result.quantizers} == {rules.get(name, name)}


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ("kl, no guard", "minmax"),
        ("mean_minmax", "minmax"),
        ("cfws_kl, no guard", "cfws_minmax"),
    ],
)
def test_rules_that_clip_give_narrower_ranges(
    by_recipe: dict[str, QuantizedDetector], narrow: str, wide: str
) -> None:
    widths = [
        {q.name: np.array([r.high - r.low for r in q.ranges]) for q in by_recipe[name].quantizers}
        for name in (narrow, wide)
    ]
    assert widths[0].keys() == widths[1].keys()
    narrower = [widths[0][name] <= widths[1][name] * (1 + 1 / 200) for name in widths[0]]
    assert all(each.all() for each in narrower)
    assert any((widths[0][name] < 0.99 * widths[1][name]).any() for name in widths[0])


def test_splitting_brings_the_weights_closer(by_recipe: dict[str, QuantizedDetector]) -> None:
    expected = run(repvgg_like().model, IMAGES)
    errors = {
        name: np.square(run(by_recipe[name].graph.model, IMAGES) - expected).mean()
        for name in ("minmax", "cfws_minmax")
    }
    assert errors["cfws_minmax"] < errors["minmax"]


@pytest.mark.parametrize("name", ["equalize channels", "give up zero points", "correct biases"])
def test_a_pass_can_be_left_out(name: str) -> None:
    recipe = load_recipe("measured")
    whole = quantize_graph(repvgg_like(), recipe, Source(IMAGES))
    less = recipe.model_copy(update={"without": (name,)})
    found = quantize_graph(repvgg_like(), less, Source(IMAGES))
    assert [step.name for step in found.steps] == [s.name for s in whole.steps if s.name != name]


@pytest.mark.parametrize("name", ["place quantizers", "choose ranges", "equalise channels"])
def test_a_pass_that_is_not_there_or_needed_is_an_error(name: str) -> None:
    recipe = load_recipe("minmax").model_copy(update={"without": (name,)})
    with pytest.raises(ConfigError, match=f"without: '{name}' is none of .*correct biases"):
        passes_of(recipe)
