"""Detectors as people publish them: what they are recognised as, and what they find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino as ov
import pytest
from onnx import numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

import detq
from detq.api import doubt
from detq.config import read_dataset
from detq.errors import CheckpointError
from detq.graph.foreign import from_bare_ir, from_onnx, possible_layouts

COCO = "data/coco256/data.yaml"


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("yolox_nano_a.onnx", "yolox-raw"),
        ("yolox_nano.onnx", "yolox-legacy-raw"),
        ("nanodet_m.onnx", "nanodet"),
        ("picodet_s_320.onnx", "picodet"),
        ("yolov5n_ir.xml", "yolov5"),
    ],
)
def test_layout_is_recognised(shared: Path, name: str, layout: str) -> None:
    read = from_bare_ir if name.endswith(".xml") else from_onnx
    graph = read(shared / "models" / name)
    assert graph.spec.family == layout
    assert graph.spec.class_count == 80


def test_anchors_of_a_table_that_is_not_decoded_are_asked_for(shared: Path) -> None:
    path = shared / "models/v5lite_e_320.onnx"
    with pytest.raises(CheckpointError, match=r"one of yolov5-levels, yolov7-levels$"):
        from_onnx(path)
    assert possible_layouts(path, None) == ("yolov5-levels", "yolov7-levels")


@pytest.mark.parametrize(
    ("name", "layout", "least", "most"),
    [("yolox_nano.onnx", None, 33.3, 33.6), ("v5lite_e_320.onnx", "yolov5-levels", 24.6, 24.9)],
)
def test_accuracy_is_the_published_networks(
    shared: Path, name: str, layout: str | None, least: float, most: float
) -> None:
    """On 128 images of COCO val2017; in the wrong layout it is 0."""
    graph = from_onnx(shared / "models" / name, layout=layout)
    found = detq.evaluate(graph, data=shared / COCO).map
    assert found is not None
    assert least < found < most


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("yolox_nano.onnx", "yolox-raw", "yolox-legacy-raw"),
        ("v5lite_e_320.onnx", "yolov7-levels", "yolov5-levels"),
    ],
)
def test_a_layout_that_fits_the_labels_better_is_named(
    shared: Path, name: str, wrong: str, right: str
) -> None:
    path, data = shared / "models" / name, read_dataset(shared / COCO)
    said = doubt(from_onnx(path, layout=wrong), data=data, split="val", model=path)
    assert f"pass --layout {right}" in str(said)
    assert doubt(from_onnx(path, layout=right), data=data, split="val", model=path) is None


def test_classes_in_another_order_are_told_apart_from_blindness(shared: Path) -> None:
    names = list(read_dataset(shared / COCO).class_names)
    graph = from_onnx(shared / "models/yolox_nano.onnx", class_names=names[40:] + names[:40])
    said = doubt(graph, data=read_dataset(shared / COCO), split="val")
    assert "its classes are in another order" in str(said)


def _halved(model: onnx.ModelProto) -> None:
    """Weights in float16, computed with in float32: what a converter leaves of a small file."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16))
            half.name = f"{tensor.name}_half"
            cast = onnx.helper.make_node("Cast", [half.name], [tensor.name], to=1)
            model.graph.node.insert(0, cast)
            tensor.CopyFrom(half)


def _wholly_halved(model: onnx.ModelProto) -> None:
    """Everything in float16, input and output too."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16))
            half.name = tensor.name
            tensor.CopyFrom(half)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type == onnx.TensorProto.FLOAT:
                half = numpy_helper.to_array(attribute.t).astype(np.float16)
                attribute.t.CopyFrom(numpy_helper.from_array(half))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == 1:
                attribute.i = onnx.TensorProto.FLOAT16
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    del model.graph.value_info[:]


@pytest.mark.parametrize("change", [_halved, _wholly_halved])
def test_half_precision_is_read_and_finds_the_same(
    shared: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    source = shared / "checkpoints/yolov6lite_s_det.onnx"
    model = onnx.load(source)
    change(model)
    onnx.save(model, tmp_path / "half.onnx")
    image = np.random.default_rng(0).random((1, 3, 320, 320), np.float32)
    made = []
    for path in (source, tmp_path / "half.onnx"):
        graph = from_onnx(path)
        types = {str(n.get_output_element_type(0)) for n in graph.model.get_ops() if n.outputs()}
        assert not {kind for kind in types if "float16" in kind}
        compiled = ov.compile_model(graph.model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        made.append(np.asarray(compiled(image)[0]))
    np.testing.assert_allclose(made[1][:, 4:], made[0][:, 4:], atol=0.02)


def test_weights_beside_the_file_are_read_through_links(shared: Path, tmp_path: Path) -> None:
    """As a model hub keeps them: both names are links into a folder of contents."""
    model = onnx.load(shared / "checkpoints/yolov6lite_s_det.onnx")
    convert_model_to_external_data(model, location="x.onnx.data", size_threshold=0)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    onnx.save(model, tmp_path / "x.onnx")
    for name in ("x.onnx", "x.onnx.data"):
        (tmp_path / name).rename(tmp_path / "blobs" / name[::-1])
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / name[::-1])
    assert from_onnx(tmp_path / "snapshot/x.onnx").spec.class_count == 80
    (tmp_path / "snapshot/x.onnx.data").unlink()
    with pytest.raises(CheckpointError, match=r"its weights are in x\.onnx\.data, which is not"):
        from_onnx(tmp_path / "snapshot/x.onnx")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../b", ""])
def test_weights_elsewhere_are_refused(shared: Path, tmp_path: Path, location: str) -> None:
    model = onnx.load(shared / "checkpoints/yolov6lite_s_det.onnx")
    convert_model_to_external_data(model, location="x.onnx.data", size_threshold=0)
    onnx.save(model, tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="outside its folder"):
        from_onnx(tmp_path / "x.onnx")


@pytest.mark.parametrize("name", ["yolox_nano_a.onnx", "picodet_s_320.onnx"])
def test_scores_are_those_of_onnx_runtime(shared: Path, name: str) -> None:
    path = shared / "models" / name
    graph = from_onnx(path)
    image = np.random.default_rng(0).random((1, 3, *graph.spec.size_hw), np.float32)
    compiled = ov.compile_model(graph.model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ours = np.asarray(compiled(image)[0])[0, 4:]
    session = onnxruntime.InferenceSession(path)
    if "yolox" in name:
        fed = image[:, ::-1] * np.float32(255)
    else:
        mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        column = (1, 3, 1, 1)
        fed = ((image - np.reshape(mean, column)) / np.reshape(std, column)).astype(np.float32)
    raw = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(fed)})
    if "yolox" in name:
        expected = (raw[0][0, :, 4:5] * raw[0][0, :, 5:]).T
    else:
        expected = np.concatenate([each[0] for each in raw if each.shape[2] == 80]).T
    np.testing.assert_allclose(ours, expected, atol=1e-3)
