from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_detectors import run

from detq.adapters import fuse_model, load_checkpoint
from detq.data.images import read_image_bgr
from detq.errors import CheckpointError, DetqError, GraphError
from detq.graph.convert import from_ir, from_torch
from detq.graph.detector_graph import INPUT, OUTPUT, DetectorGraph
from detq.graph.foreign import from_onnx
from detq.graph.resize import resized
from detq.graph.surgery import nodes_of_type
from detq.records import ModelSpec
from detq.runtime.detector import Detector
from detq.runtime.postprocess import PREDICTION

Array = npt.NDArray[np.float32]

GOLDENS = (
    "yolov6n",
    "yolov6n_fuseab",
    "yolov6n_distill",
    "yolov6s_nc3",
    "yolov6m",
    "yolov6l",
    "yolov6n6",
    "yolov6m6",
    "yolov6s_mbla",
    "yolov6n_base",
    "yolov6t",
    "yolov6n_qa",
    "yolov6m_qa",
    "yolov6n_opt",
    "yolov6_lite_s",
)
LITE = "checkpoints/yolov6lite_s_det.onnx"


def _contract(output: Array) -> Array:
    """[B, N, 5 + nc] -> [B, 4 + nc, N] where objectness is 1."""
    return np.concatenate([output[..., :4], output[..., 5:]], axis=2).transpose(0, 2, 1)


@pytest.mark.parametrize("name", GOLDENS)
def test_graph_computes_what_the_original_program_does(
    shared: Path, golden_graph: Callable[[str], DetectorGraph], name: str
) -> None:
    graph = golden_graph(name)
    with np.load(shared / f"goldens/yolov6/{name}.npz") as golden:
        images = golden["image"].astype(np.float32) / 255
        expected = _contract(golden["output"])
    compiled = ov.Core().compile_model(graph.model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    actual = np.concatenate([compiled(image[None])[0] for image in images])
    error = np.abs(actual - expected) / np.maximum(np.abs(expected), 1)
    assert error.max() < 1e-3


def test_convolutions_are_named_by_their_module_path(
    golden_graph: Callable[[str], DetectorGraph],
) -> None:
    graph = golden_graph("yolov6n")
    named = {node.get_friendly_name() for node in nodes_of_type(graph.model, "Convolution")}
    reparameterized = {conv.name for conv in graph.spec.reparameterized}
    assert reparameterized
    assert reparameterized <= named
    assert all(name.split(".")[0] in ("backbone", "neck", "detect") for name in named)


@pytest.mark.parametrize("name", ["yolov6s_nc3", "yolov6n6", "yolov6m", "yolov6_lite_s"])
def test_traced_graph_of_another_size_is_what_tracing_it_there_gives(
    shared: Path, golden_graph: Callable[[str], DetectorGraph], name: str
) -> None:
    """Its anchors are constants of the size it was traced for; they are made anew."""
    graph = golden_graph(name)
    step = max(graph.spec.strides)
    size_hw = graph.spec.size_hw[0] + step, graph.spec.size_hw[1] + 2 * step
    path = shared / f"goldens/yolov6/{name}.pt"
    traced = fuse_model(load_checkpoint(path, size_hw=size_hw))
    expected = from_torch(traced.module, traced.spec)
    image = _image(*size_hw)
    actual = run(resized(graph, size_hw).model, image)
    np.testing.assert_allclose(actual, run(expected.model, image), rtol=1e-5, atol=1e-4)


# ONNX


def _onnx(
    path: Path,
    *,
    classes: int = 3,
    size: Sequence[int | str] = (32, 64),
    objectness: float = 1.0,
    outputs: int = 1,
    cells: tuple[int, ...] = (8, 16, 32),
) -> Path:
    """One detection per cell, at its place: pooled colours, repeated to columns."""
    nodes, rows = [], []
    columns = 5 + classes
    weight = np.random.default_rng(0).random((columns, 3, 1, 1)).astype(np.float32)
    weight[4] = 0
    weight[5:] /= 3
    bias = np.zeros(columns, np.float32)
    bias[4] = objectness
    nodes.append(
        helper.make_node("Conv", ["images", "weight", "bias"], ["all"], "/detect/rbr_reparam/Conv")
    )
    for cell in cells:
        sides = {"kernel_shape": [cell, cell], "strides": [cell, cell]}
        nodes.append(helper.make_node("AveragePool", ["all"], [f"pooled{cell}"], **sides))
        nodes += _placed(f"pooled{cell}", f"level{cell}", cell)
        nodes.append(helper.make_node("Reshape", [f"level{cell}", "flat"], [f"row{cell}"]))
        rows.append(f"row{cell}")
    nodes.append(helper.make_node("Concat", rows, ["joined"], axis=2))
    names = ["outputs", "again"][:outputs]
    nodes += [helper.make_node("Transpose", ["joined"], [name], perm=[0, 2, 1]) for name in names]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(bias, "bias"),
            numpy_helper.from_array(np.array([1, columns, -1], np.int64), "flat"),
            numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
            *(numpy_helper.from_array(np.array(axis, np.int64), f"axis{axis}") for axis in (2, 3)),
            *(_steps(columns, cell, axis) for cell in cells for axis in (2, 3)),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def _placed(source: str, target: str, cell: int) -> list[onnx.NodeProto]:
    """Add the cell's place in pixels to the first two columns, for a map of any size."""
    nodes = [helper.make_node("Mul", [source, "zero"], [f"{source}0"])]
    nodes.append(helper.make_node("Exp", [f"{source}0"], [f"{source}1"]))  # ones
    above = source
    for axis in (2, 3):
        counted, place = f"{source}c{axis}", target if axis == 3 else f"{source}p"
        nodes.append(helper.make_node("CumSum", [f"{source}1", f"axis{axis}"], [counted]))
        steps = f"steps{cell}_{axis}"
        nodes.append(helper.make_node("Mul", [counted, steps], [f"{counted}px"]))
        nodes.append(helper.make_node("Add", [above, f"{counted}px"], [place]))
        above = place
    return nodes


def _steps(columns: int, cell: int, axis: int) -> onnx.TensorProto:
    """The cell's side in the column of x or y, nothing in the others."""
    steps = np.zeros((1, columns, 1, 1), np.float32)
    steps[:, 3 - axis] = cell
    return numpy_helper.from_array(steps, f"steps{cell}_{axis}")


def _image(height: int, width: int) -> Array:
    return np.random.default_rng(1).random((1, 3, height, width), np.float32)


def test_published_onnx_keeps_its_output(shared: Path) -> None:
    path = shared / LITE
    graph = from_onnx(path)
    image = _image(320, 320)
    raw = run(ov.Core().read_model(path), image)
    np.testing.assert_allclose(run(graph.model, image), _contract(raw), rtol=1e-4, atol=1e-4)
    assert graph.spec.class_count == 80
    assert graph.spec.has_placeholder_names
    assert graph.spec.strides == (8, 16, 32, 64)
    assert graph.spec.size_hw == (320, 320)
    assert graph.spec.name == "yolov6lite_s_det"
    assert graph.spec.reparameterized == ()


@pytest.mark.parametrize("objectness", [1.0, 0.25], ids="objectness {}".format)
def test_scores_are_class_times_objectness(tmp_path: Path, objectness: float) -> None:
    path = _onnx(tmp_path / "tiny.onnx", objectness=objectness)
    image = _image(32, 64)
    raw = run(ov.Core().read_model(path), image)
    np.testing.assert_allclose(raw[..., 4], objectness, rtol=1e-6)
    expected = _contract(raw)
    expected[:, 4:] *= objectness
    graph = from_onnx(path)
    np.testing.assert_allclose(run(graph.model, image), expected, rtol=1e-5)
    assert [conv.part for conv in graph.spec.reparameterized] == ["head"]


def test_ports_get_the_names_of_the_contract(tmp_path: Path) -> None:
    graph = from_onnx(_onnx(tmp_path / "tiny.onnx"))
    assert graph.model.inputs[0].get_names() == {INPUT}
    assert graph.model.outputs[0].get_names() == {OUTPUT}
    assert graph.model.get_friendly_name() == graph.spec.name == "tiny"


@pytest.mark.parametrize("size_hw", [(64, 32), (96, 96)], ids=str)
def test_dynamic_size_takes_the_one_asked_for(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    graph = from_onnx(_onnx(tmp_path / "tiny.onnx", size=("height", "width")), size_hw=size_hw)
    assert graph.spec.size_hw == size_hw
    count = sum(size_hw[0] // s * (size_hw[1] // s) for s in (8, 16, 32))
    assert graph.model.outputs[0].get_shape() == [1, 7, count]


def test_dynamic_size_is_640_by_default(tmp_path: Path) -> None:
    graph = from_onnx(_onnx(tmp_path / "tiny.onnx", size=("height", "width")))
    assert graph.spec.size_hw == (640, 640)


def test_class_names_are_taken_and_counted(tmp_path: Path) -> None:
    path = _onnx(tmp_path / "tiny.onnx")
    assert from_onnx(path, class_names="abc").spec.class_names == ("a", "b", "c")
    with pytest.raises(GraphError, match="3 classes in the output, 2 names given"):
        from_onnx(path, class_names="ab")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": 2}, r"outputs \[1, 42, 8\], \[1, 42, 8\] at 32x64 are of no known layout"),
        ({"classes": 0}, "of no known layout"),
        ({"cells": (8,)}, "of no known layout"),
        ({"size": (32,)}, r"not a readable ONNX|expected an image input"),
    ],
    ids=["two outputs", "no classes", "one level", "rank 3"],
)
def test_other_layout_is_an_error(tmp_path: Path, options: dict[str, object], message: str) -> None:
    path = _onnx(tmp_path / "tiny.onnx", **options)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=rf"tiny\.onnx: .*({message})"):
        from_onnx(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage" * 100, b"PK\x03\x04", None],
    ids=["empty", "garbage", "archive", "half a model"],
)
def test_what_is_no_onnx_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = _onnx(tmp_path / "tiny.onnx")
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(half if content is None else content)
    with pytest.raises(CheckpointError, match=r"tiny\.onnx: not a readable ONNX model"):
        from_onnx(path)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.onnx: no such file"):
        from_onnx(tmp_path / "none.onnx")


def test_published_onnx_of_another_size_sees_the_same(shared: Path) -> None:
    """An image in the upper part of a square is an image of a rectangle: so are its boxes."""
    path = shared / LITE
    square, wide = from_onnx(path), from_onnx(path, size_hw=(192, 320))
    photo = read_image_bgr(sorted((shared / "data/coco256/images/val").iterdir())[0])
    found = [
        Detector(graph, postprocess=replace(PREDICTION, confidence=0.4)).detect(photo)
        for graph in (square, wide)
    ]
    best = [each.boxes_xyxy_px[0] for each in found]
    assert found[0].class_ids[0] == found[1].class_ids[0]
    assert intersection_over_union(*best) > 0.7


def intersection_over_union(first: Array, second: Array) -> float:
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    shared_area = np.prod(np.maximum(high - low, 0))
    areas = [np.prod(box[2:] - box[:2]) for box in (first, second)]
    return float(shared_area / (sum(areas) - shared_area))


# IR and resizing


def test_resized_network_computes_the_same_and_the_given_one_stays(tmp_path: Path) -> None:
    path = _onnx(tmp_path / "tiny.onnx", size=("height", "width"))
    graph = from_onnx(path, size_hw=(32, 64))
    wide = resized(graph, (96, 32))
    assert wide.spec.size_hw == (96, 32)
    assert (graph.spec.size_hw, graph.model.inputs[0].get_shape()) == ((32, 64), [1, 3, 32, 64])
    expected = from_onnx(path, size_hw=(96, 32))
    image = _image(96, 32)
    np.testing.assert_allclose(run(wide.model, image), run(expected.model, image), rtol=1e-6)


def test_resizing_to_the_own_size_changes_nothing(colour_graph: DetectorGraph) -> None:
    assert resized(colour_graph, (32, 64)) is colour_graph


def test_size_off_the_stride_is_an_error(tmp_path: Path) -> None:
    graph = from_onnx(_onnx(tmp_path / "tiny.onnx", size=("height", "width")), size_hw=(32, 64))
    with pytest.raises(DetqError, match="multiples of the largest stride 32"):
        resized(graph, (48, 64))


def test_saved_graph_is_read_back(tmp_path: Path, colour_graph: DetectorGraph) -> None:
    ov.save_model(colour_graph.model, tmp_path / "colours.xml", compress_to_fp16=False)
    graph = from_ir(tmp_path / "colours.xml", colour_graph.spec)
    image = _image(32, 64)
    np.testing.assert_array_equal(run(graph.model, image), run(colour_graph.model, image))


@pytest.mark.parametrize("content", ["", "<net></net>", "not xml"], ids=["empty", "bare", "text"])
def test_what_is_no_ir_is_an_error(
    tmp_path: Path, colour_graph: DetectorGraph, content: str
) -> None:
    (tmp_path / "broken.xml").write_text(content)
    (tmp_path / "broken.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"broken\.xml: not a readable OpenVINO IR"):
        from_ir(tmp_path / "broken.xml", colour_graph.spec)


def test_ir_of_another_model_is_an_error(tmp_path: Path, colour_graph: DetectorGraph) -> None:
    ov.save_model(colour_graph.model, tmp_path / "colours.xml")
    spec = ModelSpec("colours", "test", ("only one",), (32,), (32, 64))
    with pytest.raises(GraphError, match=r"expected it to begin with \[1, 5\]"):
        from_ir(tmp_path / "colours.xml", spec)
