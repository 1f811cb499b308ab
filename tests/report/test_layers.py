from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops
from PIL import Image

from detq.errors import GraphError
from detq.graph.detector_graph import INPUT, OUTPUT, DetectorGraph
from detq.graph.surgery import CONVOLUTIONS, nodes_of_type
from detq.numerics.cfws import center_to_surround_ratio, cfws_sqnr_db, plain_sqnr_db
from detq.records import ModelSpec, ReparamConvolution
from detq.report.figures import weight_histograms_png
from detq.report.layers import convolution_kernels, layer_reports


def _weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


OUTLIER = _weight(4, 4, 3, 3)
OUTLIER[:, :, 1, 1] *= 20
DEPTHWISE = _weight(4, 1, 1, 3, 3, seed=1)


def _graph(*, quantized: bool = False) -> DetectorGraph:
    """Three convolutions: 1x1 in the backbone, an outlier in the neck, a depthwise one at last."""
    image = ops.parameter([1, 3, 32, 32], ov.Type.f32, name=INPUT)
    above: ov.Node = image
    weights = {"backbone.point": _weight(4, 3, 1, 1), "neck.rep": OUTLIER, "deep": DEPTHWISE}
    for name, weight in weights.items():
        build = ops.group_convolution if weight.ndim == 5 else ops.convolution
        pads = [weight.shape[-1] // 2] * 2
        constant = ops.constant(weight)
        if quantized:
            constant = ops.convert(ops.constant(weight.astype(np.int8)), "f32")
        above = build(above, constant, [1, 1], pads, pads, [1, 1])
        above.set_friendly_name(name)
    pooled = ops.reshape(ops.reduce_mean(above, [2, 3], True), np.array([1, 4, 1]), False)
    model = ov.Model([ops.result(ops.concat([pooled, pooled], 1))], [image], "three")
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    reparameterized = (ReparamConvolution("neck.rep", "neck"),)
    names = ("a", "b", "c", "d")
    return DetectorGraph(model, ModelSpec("three", "test", names, (32,), (32, 32), reparameterized))


def test_every_convolution_is_reported_in_order_with_its_figures() -> None:
    point, rep, deep = layer_reports(_graph())
    assert [r.name for r in (point, rep, deep)] == ["backbone.point", "neck.rep", "deep"]
    assert [r.part for r in (point, rep, deep)] == ["backbone", "neck", ""]
    assert [r.reparameterized for r in (point, rep, deep)] == [False, True, False]
    assert [r.shape for r in (point, rep, deep)] == [(4, 3, 1, 1), (4, 4, 3, 3), (4, 1, 3, 3)]
    assert rep.center_to_surround == center_to_surround_ratio(OUTLIER)
    assert (rep.plain_db, rep.cfws_db) == (plain_sqnr_db(OUTLIER), cfws_sqnr_db(OUTLIER))
    assert rep.cfws_db > rep.plain_db + 10


def test_kernel_without_neighbours_has_no_split() -> None:
    point, *_ = layer_reports(_graph())
    assert point.cfws_db is None
    assert point.center_to_surround == 1


def test_kernels_are_the_graphs_weights_with_groups_joined() -> None:
    kernels = convolution_kernels(_graph())
    np.testing.assert_array_equal(kernels["neck.rep"], OUTLIER)
    np.testing.assert_array_equal(kernels["deep"], DEPTHWISE.reshape(4, 1, 3, 3))


def test_integer_weights_are_an_error() -> None:
    with pytest.raises(GraphError, match="three: its weights are already quantized"):
        layer_reports(_graph(quantized=True))


@pytest.mark.parametrize("layers", [1, 12])
def test_histograms_are_a_picture(layers: int) -> None:
    with Image.open(BytesIO(weight_histograms_png(_graph(), layers=layers))) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 200


def test_picture_without_any_layer_is_still_a_picture(colour_graph: DetectorGraph) -> None:
    """A network of 1x1 kernels has nothing to show."""
    with Image.open(BytesIO(weight_histograms_png(colour_graph))) as picture:
        assert picture.format == "PNG"


def test_constant_kernel_is_drawn() -> None:
    graph = _graph()
    for node in nodes_of_type(graph.model, "Convolution"):
        zeros = ops.constant(np.zeros(node.get_input_shape(1), np.float32))
        node.input(1).replace_source_output(zeros.output(0))
    assert weight_histograms_png(graph).startswith(b"\x89PNG")


def test_real_network_is_reported_in_full(golden_graph: Callable[[str], DetectorGraph]) -> None:
    graph = golden_graph("yolov6s_nc3")
    reports = layer_reports(graph)
    assert len(reports) == len(nodes_of_type(graph.model, *CONVOLUTIONS))
    split = [report for report in reports if report.reparameterized]
    assert len(split) == len(graph.spec.reparameterized)
    assert all(report.part in ("backbone", "neck", "head") for report in reports)
    assert all(np.isfinite(report.plain_db) for report in reports)
