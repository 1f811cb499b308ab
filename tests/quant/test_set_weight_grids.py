"""INT8 sums cannot overflow on CPUs without VNNI, whatever the weights."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops
from small_graphs import Layers, Source, detector, images, relative_error, repvgg_like, run

from detq.artifact import write_artifact
from detq.config import RangesConfig, Recipe, WeightsConfig
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import WEIGHTED, nodes_of_type, producer
from detq.numerics.cfws import PAIR_LIMIT
from detq.quant.quantizer import quantize_graph

MINMAX = RangesConfig(backbone="minmax", neck="minmax", head="minmax")
IMAGES = images(6)


def _integers(model: ov.Model) -> dict[str, np.ndarray]:
    """The stored INT8 weights of every operation that has such, (O, I, kH, kW)."""
    found = {}
    for operation in nodes_of_type(model, *WEIGHTED):
        node = producer(operation, 1)
        while node.get_type_name() != "Constant":
            node = producer(node)
        assert node.get_element_type() == ov.Type.i8
        weight = node.get_data().astype(int)
        if operation.get_type_name() == "MatMul":
            rows = weight if operation.get_attributes()["transpose_b"] else weight.T
            weight = rows[..., None, None]
        elif operation.get_type_name() == "ConvolutionBackpropData":
            weight = weight.transpose(1, 0, 2, 3)
        found[operation.get_friendly_name()] = weight.reshape(-1, *weight.shape[-3:])
    return found


def _worst_pair(integers: np.ndarray) -> int:
    """The largest of all sums that meet in 16 bits; an image's channels also meet as BGR."""
    worst = 0
    for order in (integers, integers[:, ::-1]) if integers.shape[1] == 3 else (integers,):
        for first in range(0, order.shape[1] - 1, 2):
            pair = order[:, first : first + 2]
            sums = (np.maximum(pair, 0).sum(1), np.maximum(-pair, 0).sum(1))
            worst = max(worst, int(np.maximum(*sums).max()))
    return worst


def _recipe(
    overflow_fix: str,
    *,
    split: str = "cfws",
    granularity: str = "channel",
    rounding: str = "nearest",
) -> Recipe:
    weights = WeightsConfig(split=split, granularity=granularity, rounding=rounding)  # type: ignore[arg-type]
    return Recipe(name="test", weights=weights, ranges=MINMAX, overflow_fix=overflow_fix)  # type: ignore[arg-type]


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("split", ["none", "cfws", "residual"])
def test_no_stored_pair_overflows(split: str, granularity: str) -> None:
    recipe = _recipe("pairs", split=split, granularity=granularity)
    result = quantize_graph(repvgg_like(outlier=20), recipe, Source(IMAGES))
    integers = _integers(result.graph.model)
    assert len(integers) > 5
    assert max(map(_worst_pair, integers.values())) <= PAIR_LIMIT


def test_without_the_fix_pairs_do_overflow() -> None:
    result = quantize_graph(repvgg_like(outlier=20), _recipe("disable"), Source(IMAGES))
    assert max(map(_worst_pair, _integers(result.graph.model).values())) > PAIR_LIMIT


def test_no_stored_pair_of_a_real_network_overflows(
    golden_graph: Callable[[str], DetectorGraph],
) -> None:
    graph = golden_graph("yolov6n")
    result = quantize_graph(graph, _recipe("pairs"), Source(images(2, size=(128, 192))))
    assert max(map(_worst_pair, _integers(result.graph.model).values())) <= PAIR_LIMIT


OTHERS = ("transposed", "product", "product of rows")


def _other(features: ov.Node, kind: str, weight: np.ndarray) -> ov.Node:
    """What multiplies by ``weight`` (I, O) and is no convolution, behind [1, I, H, W]."""
    inputs, outputs = weight.shape
    if kind == "transposed":
        kernel = np.repeat(weight[:, :, None], 4, axis=2).reshape(inputs, outputs, 2, 2)
        node = ops.convolution_backprop_data(features, ops.constant(kernel), strides=[2, 2])
        node.set_friendly_name("neck.other")
        return node
    height, width = features.get_output_shape(0)[2:]
    rows = ops.transpose(
        ops.reshape(features, np.array([1, inputs, height * width]), False), [0, 2, 1]
    )
    is_turned = kind == "product of rows"
    node = ops.matmul(rows, ops.constant(weight.T if is_turned else weight), False, is_turned)
    node.set_friendly_name("neck.other")
    return ops.reshape(ops.transpose(node, [0, 2, 1]), np.array([1, outputs, height, width]), False)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize(
    ("overflow_fix", "rounding", "fits"),
    [("pairs", "nearest", True), ("pairs", "gptq", True), ("disable", "nearest", False)],
)
def test_no_stored_pair_of_another_operation_overflows(
    kind: str, overflow_fix: str, rounding: str, fits: bool
) -> None:
    make = Layers(outlier=20)
    image = make.image()
    features = ops.relu(make.convolution(image, 16, "backbone.stem", stride=2))
    weight = np.random.default_rng(1).standard_t(3, (16, 12)).astype(np.float32)
    head = make.convolution(ops.relu(_other(features, kind, weight)), 6, "head", kernel=1)
    recipe = _recipe(overflow_fix, split="none", rounding=rounding)
    result = quantize_graph(detector(image, head), recipe, Source(IMAGES))
    integers = _integers(result.graph.model)["neck.other"]
    assert integers.shape[:2] == (12, 16)
    assert (_worst_pair(integers) <= PAIR_LIMIT) == fits


def test_product_with_a_vector_is_one_sum() -> None:
    make = Layers()
    image = make.image()
    rows = ops.transpose(make.convolution(image, 16, "backbone.stem"), [0, 2, 3, 1])
    product = ops.matmul(rows, ops.constant(np.ones(16, np.float32)), False, False)
    product.set_friendly_name("neck.other")
    plane = ops.unsqueeze(product, ops.constant(np.int64(1)))
    graph = detector(image, make.convolution(ops.relu(plane), 6, "head", kernel=1))
    result = quantize_graph(graph, _recipe("pairs", split="none"), Source(IMAGES))
    integers = _integers(result.graph.model)["neck.other"]
    assert integers.shape == (1, 16, 1, 1)
    assert _worst_pair(integers) <= PAIR_LIMIT


def _worst_case(red: float = 1.0) -> DetectorGraph:
    """A convolution whose weights are all alike, on a white image: every pair is at its limit."""
    image = Layers().image()
    weight = np.ones((8, 3, 3, 3), np.float32)
    weight[:, 0] = red
    features = ops.relu(
        ops.convolution(image, ops.constant(weight), [1, 1], [1, 1], [1, 1], [1, 1])
    )
    features.input_value(0).get_node().set_friendly_name("backbone.stem")
    head = Layers(seed=1).convolution(features, 6, "head", kernel=1)
    return detector(image, head)


def test_equal_weights_on_white_are_exact_on_every_cpu() -> None:
    white = [np.ones((1, 3, 32, 32), np.float32)]
    graph = _worst_case()
    result = quantize_graph(graph, _recipe("pairs", split="none"), Source(white))
    assert relative_error(run(result.graph.model, white), run(graph.model, white)) < 0.02


def _worst_other(kind: str) -> DetectorGraph:
    """The same of another operation, whose inputs are all alike."""
    make = Layers()
    image = make.image()
    mean = np.full((8, 3, 1, 1), 1 / 3, np.float32)
    stem = ops.convolution(image, ops.constant(mean), [1, 1], [0, 0], [0, 0], [1, 1])
    stem.set_friendly_name("backbone.stem")
    other = _other(ops.relu(stem), kind, np.full((8, 8), 0.125, np.float32))
    return detector(image, make.convolution(ops.relu(other), 6, "head", kernel=1))


_INFER_WHITE = """
import sys
from pathlib import Path
import numpy as np
from detq.artifact import read_artifact
from detq.runtime.detector import CompiledGraph

graph = CompiledGraph(read_artifact(Path(sys.argv[1])))
np.save(sys.argv[2], graph.infer(np.full((1, 32, 32, 3), 255, np.uint8)))
"""


@pytest.mark.parametrize(
    ("overflow_fix", "rounding", "exact"),
    [("pairs", "nearest", True), ("pairs", "gptq", True), ("disable", "nearest", False)],
)
def test_pixels_in_bgr_are_exact_without_vnni(
    overflow_fix: str, rounding: str, exact: bool, tmp_path: Path
) -> None:
    """The runtime turns the stem's weights around, not the image: green then meets blue.

    Another process, for oneDNN chooses its instructions once; ``disable`` shows that it obeys.
    """
    graph = _worst_case(red=0.0)
    recipe = _recipe(overflow_fix, split="none", rounding=rounding)
    assert (_error_without_vnni(graph, recipe, tmp_path) < 0.02) == exact


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize(("overflow_fix", "exact"), [("pairs", True), ("disable", False)])
def test_other_operations_are_exact_without_vnni(
    kind: str, overflow_fix: str, exact: bool, tmp_path: Path
) -> None:
    """Transposed convolutions were not: YOLOv6's upsampling saturated."""
    recipe = _recipe(overflow_fix, split="none")
    assert (_error_without_vnni(_worst_other(kind), recipe, tmp_path) < 0.02) == exact


def _error_without_vnni(graph: DetectorGraph, recipe: Recipe, folder: Path) -> float:
    white = [np.ones((1, 3, 32, 32), np.float32)]
    write_artifact(quantize_graph(graph, recipe, Source(white)).graph, folder / "model")
    found = folder / "found.npy"
    subprocess.run(
        [sys.executable, "-c", _INFER_WHITE, folder / "model", found],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        check=True,
    )
    return relative_error([np.load(found)], run(graph.model, white))
