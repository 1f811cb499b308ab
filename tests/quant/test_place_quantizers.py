from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import numpy as np
import pytest
from small_graphs import fingerprint, images, pyramid, relative_error, repvgg_like, run, through

from detq.errors import GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import constant_value, consumers, nodes_of_type, producer
from detq.quant.observation import FloatNetwork
from detq.quant.passes.place_quantizers import PlaceQuantizers, decode_nodes, quiet_nncf

PLACE = PlaceQuantizers()


@pytest.mark.parametrize("build", [repvgg_like, pyramid])
def test_bypassing_the_quantizers_gives_the_float_function(
    build: Callable[[], DetectorGraph],
) -> None:
    graph, inputs = build(), images(2)
    before = fingerprint(graph.model)
    placed = through(graph, PLACE, given=inputs).model
    assert fingerprint(graph.model) == before
    assert nodes_of_type(placed, "FakeQuantize")
    twin = FloatNetwork(placed).model
    assert not nodes_of_type(twin, "FakeQuantize")
    assert nodes_of_type(placed, "FakeQuantize")
    assert relative_error(run(twin, inputs), run(graph.model, inputs)) < 1e-5


def test_every_convolution_is_quantized_and_its_weights_stay_float() -> None:
    placed = through(repvgg_like(), PLACE, given=images(1)).model
    convolutions = nodes_of_type(placed, "Convolution", "GroupConvolution")
    assert len(convolutions) == 6
    for convolution in convolutions:
        assert producer(convolution, 0).get_type_name() == "FakeQuantize"
        assert producer(convolution, 1).get_type_name() == "FakeQuantize"
        weight = constant_value(producer(convolution, 1))
        assert weight is not None
        assert weight.dtype == np.float32


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_weights_have_the_granularity_asked_for(granularity: str) -> None:
    place = PlaceQuantizers(per_channel=granularity == "channel")
    placed = through(repvgg_like(), place, given=images(1)).model
    for convolution in nodes_of_type(placed, "Convolution"):
        limits = producer(convolution, 1).input_value(1).get_shape()
        wide = np.prod(limits) > 1
        assert wide == (granularity == "channel")


@pytest.mark.parametrize("quantize_decode", [False, True])
def test_decode_stays_float_unless_asked(
    golden_graph: Callable[[str], DetectorGraph], quantize_decode: bool
) -> None:
    graph = golden_graph("yolov6s_nc3")
    place = PlaceQuantizers(decode=quantize_decode)
    placed = through(graph, place, given=images(1, size=160)).model
    decode = set(decode_nodes(graph))
    inside = [
        node
        for node in nodes_of_type(placed, "FakeQuantize")
        if producer(node).get_friendly_name() in decode
        and {user.get_friendly_name() for user in consumers(node)} & decode
    ]
    assert bool(inside) == quantize_decode


def test_decode_begins_behind_the_last_convolutions() -> None:
    graph = repvgg_like()
    types = {
        node.get_type_name()
        for node in graph.model.get_ops()
        if node.get_friendly_name() in decode_nodes(graph)
    }
    assert types == {"Add", "Reshape", "VariadicSplit", "Multiply", "Sigmoid", "Concat"}


@pytest.mark.parametrize("name", ["yolov6n", "yolov6n_distill", "yolov6m", "yolov6_lite_s"])
def test_no_feature_convolution_of_a_real_network_is_taken_for_decode(
    golden_graph: Callable[[str], DetectorGraph], name: str
) -> None:
    """The head's last convolutions predict boxes and classes; DFL's expectation is no feature."""
    graph = golden_graph(name)
    decode = set(decode_nodes(graph))
    features = [
        node.get_friendly_name()
        for node in nodes_of_type(graph.model, "Convolution", "GroupConvolution")
        if not producer(node).get_friendly_name().endswith("softmax")
    ]
    inside = [node for node in features if node in decode]
    assert len(inside) <= 1
    assert all("proj" in node for node in inside)


def test_graph_without_convolution_is_an_error(colour_graph: DetectorGraph) -> None:
    model = colour_graph.model.clone()
    for node in nodes_of_type(model, "Convolution"):
        node.output(0).replace(node.input_value(0))
    with pytest.raises(GraphError, match="no convolution in the graph"):
        decode_nodes(DetectorGraph(model, colour_graph.spec))


def test_nncf_is_quiet_and_its_logger_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("nncf")
    level = logger.level
    with pytest.raises(GraphError), quiet_nncf():
        sys.stdout.write("a bar of NNCF's own")
        raise GraphError("stopped")
    assert logger.level == level
    through(repvgg_like(), PLACE, given=images(1))
    assert capsys.readouterr().out == ""
