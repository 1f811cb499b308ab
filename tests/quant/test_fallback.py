"""Fallback to float: which weights follow a tensor, and what a group of tensors costs."""

from __future__ import annotations

import numpy as np
import pytest
from openvino import opset15 as ops
from small_graphs import Layers, detector, fingerprint, images, pyramid, repvgg_like, run, through

from detq.errors import GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import constant_value, find_node, producer, producers
from detq.quant.cost import CostModel
from detq.quant.fallback import fall_back, quantizer_groups
from detq.quant.network import Network
from detq.quant.passes.place_quantizers import PlaceQuantizers
from detq.quant.passes.round_weights import RoundWeights
from detq.quant.quantizers import activation_nodes

IMAGES = images(2)


def _placed(graph: DetectorGraph) -> Network:
    return through(graph, PlaceQuantizers(), RoundWeights("nearest"), given=IMAGES)


def _shuffled() -> DetectorGraph:
    make = Layers(seed=1)
    image = make.image()
    one = ops.relu(make.convolution(image, 8, "backbone.one", stride=2))
    two = ops.relu(make.convolution(image, 8, "backbone.two", stride=2))
    mixed = ops.shuffle_channels(ops.concat([one, two], 1), 1, 2)
    reader = ops.relu(make.convolution(mixed, 8, "neck.reader", kernel=1))
    return detector(image, make.convolution(reader, 7, "detect.pred", kernel=1))


def test_layer_that_reads_float_has_exact_weights_too() -> None:
    placed = _placed(repvgg_like())
    before = fingerprint(placed.model)
    name = producer(find_node(placed.model, "backbone.bare")).get_friendly_name()
    found = fall_back(placed, [name])
    assert fingerprint(placed.model) == before
    reader = find_node(found.model, "backbone.bare")
    assert producer(reader).get_type_name() != "FakeQuantize"
    assert producer(reader, 1).get_type_name() == "Constant"
    exact = find_node(placed.float_model, "backbone.bare")
    np.testing.assert_array_equal(
        constant_value(producer(reader, 1)), constant_value(producer(exact, 1))
    )
    assert found.in_float == {name}


def test_everything_in_float_is_the_float_network() -> None:
    placed = _placed(pyramid())
    found = fall_back(placed, [quantizer.name for quantizer in placed.quantizers])
    np.testing.assert_allclose(
        run(found.model, IMAGES), run(placed.float_model, IMAGES), rtol=1e-4, atol=1e-5
    )


def test_a_product_of_two_activations_keeps_its_other_operand() -> None:
    """As in YOLO11's attention, where a split hands on what the product reads."""
    make = Layers(seed=1)
    image = make.image()
    both = make.convolution(image, 16, "backbone.both", stride=2)
    rows = ops.reshape(both, np.array([1, 16, -1]), False)
    query, key, _ = ops.variadic_split(rows, 1, [4, 4, 8]).outputs()
    query = ops.multiply(query, ops.constant(np.float32(0.5)))
    product = ops.matmul(query, key, True, False)
    product.set_friendly_name("product")
    sums = ops.reduce_mean(product, np.array([1, 2]), keep_dims=True)
    deep = ops.add(both, ops.unsqueeze(sums, 3))
    graph = detector(image, make.convolution(ops.relu(deep), 7, "detect.pred", kernel=1))
    placed = _placed(graph)
    operands = {
        above.get_friendly_name()
        for above in producers(find_node(placed.model, "product"))
        if above.get_type_name() == "FakeQuantize"
    }
    assert operands
    for quantizer in placed.quantizers:
        found = fall_back(placed, [quantizer.name])
        left = {node.get_friendly_name() for node in activation_nodes(found.model)}
        assert left == {q.name for q in placed.quantizers} - {quantizer.name}


def test_unknown_quantizer() -> None:
    with pytest.raises(GraphError, match="no quantizer is named 'x'"):
        fall_back(_placed(pyramid()), ["x"])


def test_tensors_that_are_shuffled_together_share_a_grid_and_their_reader() -> None:
    groups = [g for g in quantizer_groups(_placed(_shuffled())) if len(g.members) == 2]
    assert len(groups) == 1
    assert groups[0].mac_share > 0


def test_convolution_with_one_half_in_float_has_float_weights_too() -> None:
    placed = _placed(_shuffled())
    (group,) = [group for group in quantizer_groups(placed) if len(group.members) == 2]
    found = fall_back(placed, group.members[:1])
    reader = find_node(found.model, "neck.reader")
    assert producer(reader, 1).get_type_name() == "Constant"
    np.testing.assert_array_equal(
        constant_value(producer(reader, 1)),
        constant_value(producer(find_node(placed.float_model, "neck.reader"), 1)),
    )
    for name in ("backbone.one", "backbone.two", "detect.pred"):
        assert producer(find_node(found.model, name), 1).get_type_name() == "FakeQuantize"


def test_groups_know_who_reads_them() -> None:
    placed = _placed(pyramid())
    groups = quantizer_groups(placed)
    assert sorted(name for group in groups for name in group.members) == sorted(
        quantizer.name for quantizer in placed.quantizers
    )
    assert 0 < max(group.mac_share for group in groups) <= 1
    assert all(group.cost >= 0 for group in groups)


def test_what_fell_back_is_in_no_group() -> None:
    placed = _placed(pyramid())
    (first, *others) = quantizer_groups(placed)
    left = quantizer_groups(fall_back(placed, first.members))
    assert [group.members for group in left] == [group.members for group in others]


def test_image_in_float_costs_its_conversion_too(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = _placed(pyramid())
    first = producer(activation_nodes(placed.model)[0])
    assert first.get_type_name() == "Parameter"
    before = quantizer_groups(placed)
    expected = CostModel.of(placed.model).float_image(first)
    assert expected > 0
    monkeypatch.setattr(CostModel, "float_image", lambda self, image: 0.0)
    extra = [
        group.cost - other.cost
        for group, other in zip(before, quantizer_groups(placed), strict=True)
    ]
    assert extra == pytest.approx([expected] + [0.0] * (len(extra) - 1))
