"""Exported ONNX files in ONNX Runtime against the OpenVINO graphs that they were written from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import openvino as ov
import pytest
from onnx import numpy_helper
from openvino import opset15 as ops

from detq import api
from detq.data.images import read_image_bgr
from detq.errors import ConfigError, GraphError
from detq.graph.detector_graph import INPUT, OUTPUT, DetectorGraph
from detq.graph.foreign import from_onnx
from detq.graph.surgery import nodes_of_type, producers, with_outputs
from detq.onnx_export import to_onnx, write_onnx
from detq.records import ModelSpec

Array = npt.NDArray[np.float32]
STEP = 1 / 255
"""One INT8 step of a score."""


def _openvino(model: ov.Model, image: Array) -> Array:
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled(image)[0])


def _onnxruntime(
    model: onnx.ModelProto | Path, *, exact: bool = False
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _image(size_hw: tuple[int, int]) -> Array:
    return np.random.default_rng(0).random((1, 3, *size_hw), np.float32)


@pytest.mark.parametrize(
    "name", ["yolov6s_nc3", "yolov6m", "yolov6n6", "yolov6s_mbla", "yolov6_lite_s"]
)
def test_float_file_computes_what_the_graph_does(
    golden_graph: Callable[[str], DetectorGraph], name: str
) -> None:
    graph = golden_graph(name)
    image = _image(graph.spec.size_hw)
    actual = _onnxruntime(to_onnx(graph)).run([OUTPUT], {INPUT: image})[0]
    np.testing.assert_allclose(actual, _openvino(graph.model, image), rtol=1e-4, atol=1e-3)


OPERATIONS: dict[str, Callable[[ov.Node], ov.Node]] = {
    "swish": lambda x: ops.swish(x, np.float32(1.5)),
    "mish": ops.mish,
    "gelu": lambda x: ops.gelu(x, "erf"),
    "elu": lambda x: ops.elu(x, 0.7),
    "clamp": lambda x: ops.clamp(x, 0.25, 0.5),
    "hard sigmoid": lambda x: ops.hard_sigmoid(x, np.float32(0.3), np.float32(0.4)),
    "hsigmoid": ops.hsigmoid,
    "hswish": ops.hswish,
    "softmax": lambda x: ops.softmax(x, 1),
    "shuffle": lambda x: ops.shuffle_channels(x, 1, 3),
    "average": lambda x: ops.avg_pool(x, [2, 2], [1, 1], [1, 1], [3, 3], True),
    "padded average": lambda x: ops.avg_pool(x, [2, 2], [1, 1], [1, 1], [3, 3], False),
    "maximum": lambda x: ops.max_pool(x, [1, 1], [1, 1], [2, 2], [2, 2], [5, 5]).output(0),
    "mean": lambda x: ops.reduce_mean(x, np.array([2, 3]), True),
    "sum": lambda x: ops.reduce_sum(x, np.array([1]), True),
    "reversed": lambda x: ops.gather(x, np.array([2, 1, 0]), np.int64(1)),
    "strided": lambda x: ops.strided_slice(
        x, [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 2, 2], [1, 1, 0, 1], [1, 1, 1, 1]
    ),
    "shrunk": lambda x: ops.strided_slice(
        x, [0, -1, 0, 0], [1, 0, 0, 0], [1] * 4, [1, 0, 1, 1], [1, 0, 1, 1], [0] * 4, [0, 1, 0, 0]
    ),
    "slice": lambda x: ops.slice(x, [1], [7], [3], [3]),
    "enlarged": lambda x: ops.interpolate(
        x, np.array([2.0, 2.0], np.float32), "nearest", "scales", axes=np.array([2, 3]),
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    ),
    "linear": lambda x: ops.interpolate(
        x, np.array([24, 12]), "linear_onnx", "sizes", axes=np.array([2, 3])
    ),
    "to space": lambda x: ops.depth_to_space(ops.concat([x, x, x, x], 1), "blocks_first", 2),
    "padded": lambda x: ops.pad(x, [0, 0, 1, 2], [0, 0, 0, 3], "constant", np.float32(0.5)),
    "product": lambda x: ops.matmul(x, x, True, False),
    "tiled": lambda x: ops.tile(x, [1, 2, 1, 1]),
    "power": lambda x: ops.power(x, np.float32(1.7)),
    "prelu": lambda x: ops.prelu(ops.subtract(x, np.float32(0.5)), np.full(3, 0.1, np.float32)),
}  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_operation_is_written_as_what_it_is(operation: Callable[[ov.Node], ov.Node]) -> None:
    image = ops.parameter([1, 3, 32, 64], ov.Type.f32)
    value = operation(ops.convolution(image, _kernel(3, 3), [4, 4], [0, 0], [0, 0], [1, 1]))
    graph = _as_detector(image, value)
    pixels = _image((32, 64))
    actual = _onnxruntime(to_onnx(graph)).run([OUTPUT], {INPUT: pixels})[0]
    np.testing.assert_allclose(actual, _openvino(graph.model, pixels), rtol=1e-4, atol=1e-5)


def _kernel(outputs: int, inputs: int) -> Array:
    random = np.random.default_rng(1)
    return random.normal(size=(outputs, inputs, 3, 3)).astype(np.float32)


def _as_detector(image: ov.Node, value: ov.Node | ov.Output) -> DetectorGraph:
    """Any tensor as predictions of one class."""
    node = value if isinstance(value, ov.Node) else value.get_node()
    port = value if isinstance(value, ov.Output) else value.output(0)
    size = int(np.prod(port.get_shape()))
    rows = ops.reshape(port, np.array([1, size, 1]), False)
    spread = ops.multiply(rows, np.ones((1, size, 5), np.float32))
    model = ov.Model(
        [ops.result(ops.transpose(spread, [0, 2, 1]))], [image], node.get_friendly_name()
    )
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    return DetectorGraph(model, ModelSpec("one", "test", ("thing",), (32,), (32, 64)))


def test_operation_without_a_counterpart_is_named() -> None:
    image = ops.parameter([1, 3, 32, 64], ov.Type.f32)
    value = ops.cum_sum(image, np.int64(1))
    value.set_friendly_name("running_total")
    with pytest.raises(GraphError, match="running_total: detq writes no CumSum to ONNX"):
        to_onnx(_as_detector(image, value))


@pytest.fixture(scope="module")
def int8_models(shared: Path) -> dict[str, tuple[api.QuantizationResult, list[Array]]]:
    """Real detectors quantized on real images, and real images to try them on."""
    made = {}
    for name, model, data, images, recipe in (
        ("yolov6n", "bccd_yolov6n.pt", "bccd", "bccd/images/test", "cfws_kl"),
        ("lite_s", "yolov6lite_s_det.onnx", "coco256", "coco256/images/val", "minmax"),
    ):
        graph = api.load(shared / "checkpoints" / model, imgsz=320)
        config = shared / "data" / data / "data.yaml"
        chosen = api.load_recipe(recipe).model_copy(update={"calibration_images": 8})
        result = api.quantize(graph, data=config, recipe=chosen)
        paths = sorted((shared / "data" / images).iterdir())[:2]
        prepare = api.default_preprocess(graph).apply
        made[name] = result, [prepare(read_image_bgr(path))[0] for path in paths]
    return made


@pytest.fixture(scope="module", params=["yolov6n", "lite_s"])
def int8_model(
    request: pytest.FixtureRequest,
    int8_models: dict[str, tuple[api.QuantizationResult, list[Array]]],
) -> tuple[api.QuantizationResult, list[Array]]:
    return int8_models[request.param]


Int8 = tuple[api.QuantizationResult, list[Array]]


def test_weights_are_stored_as_the_same_integers(int8_model: Int8) -> None:
    graph = int8_model[0].graph
    proto = to_onnx(graph)
    stored = {
        entry.name: numpy_helper.to_array(entry)
        for entry in proto.graph.initializer
        if entry.name.endswith(".weight_int8")
    }
    convolutions = nodes_of_type(
        graph.model, "Convolution", "GroupConvolution", "ConvolutionBackpropData"
    )
    packed = [node for node in convolutions if producers(node)[1].get_type_name() != "Constant"]
    assert len(stored) == len(packed) > 50
    sizes = sum(value.nbytes for value in stored.values())
    floats = [numpy_helper.to_array(e).nbytes for e in proto.graph.initializer if e.data_type == 1]
    assert sizes > sum(floats)  # what is left in float are scales, grids and the decode
    assert {str(value.dtype) for value in stored.values()} == {"int8"}


def test_every_layer_is_within_one_step_of_the_graphs(int8_model: Int8) -> None:
    """Each layer on the tensors that the OpenVINO graph has there, so that nothing adds up.

    Along a whole network the last bits of sums decide roundings, which the next layers amplify: two
    ways of running one and the same INT8 graph differ as much as two formats.
    """
    result, images = int8_model
    graph = result.graph
    quantizers = nodes_of_type(graph.model, "FakeQuantize")
    taps = [node.output(0) for node in quantizers]
    observed = with_outputs(graph.model, [*taps, graph.model.get_results()[0].input_value(0)])
    properties = {"INFERENCE_PRECISION_HINT": "f32"}
    tensors = ov.Core().compile_model(observed, "CPU", properties)(images[0])
    names = [node.get_friendly_name() for node in quantizers]
    session, steps, values = _cut_at_quantizers(to_onnx(graph), names)
    given = {f"{name}/given": tensors[index] for index, name in enumerate(names)}
    *found, predictions = session.run([*names, OUTPUT], {INPUT: images[0], **given})
    different, total = 0, 0
    for index, name in enumerate(names):
        off = np.abs(found[index] - tensors[index]) / steps[name]
        assert off.max() < 1.01, name
        different += int((off > 0.5).sum())
        total += off.size
    assert different < 0.003 * total  # sums that lie half way between two steps
    expected = tensors[len(names)]
    assert np.abs(predictions - expected)[:, 4:].max() < STEP
    np.testing.assert_allclose(predictions[:, :4], expected[:, :4], rtol=1e-3, atol=0.05)
    assert values == len(names)


def _cut_at_quantizers(
    proto: onnx.ModelProto, names: list[str]
) -> tuple[onnxruntime.InferenceSession, dict[str, Array], int]:
    """A session in which what reads a quantizer reads an input ``NAME/given`` instead."""
    initial = {e.name: numpy_helper.to_array(e) for e in proto.graph.initializer}
    steps, count = {}, 0
    wanted = set(names)
    for node in proto.graph.node:
        if node.output[0] in wanted:
            scale = initial[node.input[1]]
            shape = (1, -1, 1, 1) if scale.ndim else ()
            steps[node.output[0]] = scale.reshape(shape)
            count += 1
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            if name in wanted:
                node.input[index] = f"{name}/given"
    for name in names:
        kind = onnx.TypeProto()
        kind.tensor_type.elem_type = onnx.TensorProto.FLOAT
        proto.graph.input.append(onnx.helper.make_value_info(f"{name}/given", kind))
        proto.graph.output.append(onnx.helper.make_value_info(name, kind))
    return _onnxruntime(proto, exact=True), steps, count


def test_whole_network_scores_alike(int8_model: Int8) -> None:
    result, images = int8_model
    session = _onnxruntime(to_onnx(result.graph))
    for image in images:
        expected = _openvino(result.graph.model, image)[:, 4:]
        off = np.abs(session.run([OUTPUT], {INPUT: image})[0][:, 4:] - expected)
        assert off.mean() < STEP / 2
        assert np.quantile(off, 0.9) < STEP


def test_split_file_is_the_float_network_still(
    golden_graph: Callable[[str], DetectorGraph], tmp_path: Path
) -> None:
    graph = golden_graph("yolov6s_nc3")
    path = api.export(graph, tmp_path / "split.onnx")
    coarse = [node.name for node in onnx.load(path).graph.node if node.name.endswith("/coarse")]
    split = [conv for conv in graph.spec.reparameterized if conv.part != "head"]
    assert len(coarse) == len(split) > 10
    image = _image(graph.spec.size_hw)
    actual = _onnxruntime(path).run([OUTPUT], {INPUT: image})[0]
    np.testing.assert_allclose(actual, _openvino(graph.model, image), rtol=1e-3, atol=1e-2)
    plain = api.export(graph, tmp_path / "plain.onnx", recipe="minmax")
    assert not [node for node in onnx.load(plain).graph.node if node.name.endswith("/coarse")]


def test_written_file_is_read_back(
    golden_graph: Callable[[str], DetectorGraph], tmp_path: Path
) -> None:
    graph = golden_graph("yolov6s_nc3")
    moved = DetectorGraph(graph.model, replace(graph.spec, fit="corner"))
    write_onnx(moved, tmp_path / "model.onnx")
    again = from_onnx(tmp_path / "model.onnx")
    assert again.spec == replace(moved.spec, name="model")
    image = _image(graph.spec.size_hw)
    expected = _openvino(graph.model, image)
    np.testing.assert_allclose(_openvino(again.model, image), expected, rtol=1e-4, atol=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def test_file_of_an_earlier_version_is_recognised(
    golden_graph: Callable[[str], DetectorGraph], tmp_path: Path
) -> None:
    """It kept the family and the fit alone."""
    graph = golden_graph("yolov6s_nc3")
    proto = to_onnx(graph)
    entry = next(entry for entry in proto.metadata_props if entry.key == "detq")
    entry.value = '{"family": "yolov6", "fit": "corner"}'
    onnx.save(proto, tmp_path / "old.onnx")
    spec = from_onnx(tmp_path / "old.onnx").spec
    assert len(spec.reparameterized) == len(graph.spec.reparameterized)
    found = graph.spec.reparameterized  # by other names
    assert replace(spec, reparameterized=found) == replace(graph.spec, name="old", fit="corner")


def test_zero_off_the_grid_is_an_error() -> None:
    image = ops.parameter([1, 3, 32, 64], ov.Type.f32)
    ends = [np.float32(-0.3), np.float32(0.7)]
    value = ops.fake_quantize(image, *ends, *ends, 256)
    value.set_friendly_name("crooked")
    with pytest.raises(GraphError, match="crooked: zero is not on its grid"):
        to_onnx(_as_detector(image, value))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "format 'tflite': expected one of onnx, onnx-qdq, openvino"),
        ({"format": "onnx-qdq"}, "is a float model; pass --data"),
        ({"format": "onnx", "portable": True}, "format onnx: --portable is for openvino and ovms"),
    ],
)
def test_what_does_not_go_together_is_an_error(
    colour_graph: DetectorGraph, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        api.export(colour_graph, tmp_path / "x.onnx", **options)
    assert not list(tmp_path.iterdir())
