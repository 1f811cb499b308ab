"""What exporters make of one network: other levels, batches and orders of nodes, other tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx_detectors import (
    CLASSES,
    Array,
    Builder,
    contract,
    decoded_columns,
    dense,
    exponential,
    levels,
    network,
    raw_maps,
    rows,
    run,
    save,
    selected,
    sigmoid,
)

from detq.errors import CheckpointError
from detq.graph.foreign import from_onnx
from detq.graph.layouts import STRIDES
from detq.graph.onnx_reading import read_onnx

SIZE_HW = (128, 256)
IMAGE = np.random.default_rng(1).random((1, 3, *SIZE_HW), np.float32)


def _network(build: Builder) -> list[str]:
    return network(build, "images", columns=5 + CLASSES, head="detect", focus=False)


def _file(path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    build = Builder(named=True, size_hw=SIZE_HW)
    return save(build, path, decoded_columns(build, _network(build)), metadata=metadata)


def _expected(path: Path, strides: Sequence[int]) -> Array:
    """What the network of :func:`_network` means, worked out by ONNX Runtime and numpy."""
    build = Builder(named=True, size_hw=SIZE_HW, strides=strides)
    table = rows(raw_maps(save(build, path, _network(build)), IMAGE))
    return contract(exponential(table, SIZE_HW, strides), sigmoid(table[:, 5:]))


@pytest.mark.parametrize("strides", STRIDES, ids=str)
@pytest.mark.parametrize("layout", ["yolov8", "yolox-raw"])
def test_levels_are_told_by_their_cells(
    tmp_path: Path, strides: tuple[int, ...], layout: str
) -> None:
    """For small objects (from stride 4 on), two levels (YOLOv3-tiny), five of them."""
    build = Builder(named=True, size_hw=SIZE_HW, strides=strides)
    raw = _network(build)
    if layout == "yolov8":
        end = decoded_columns(build, raw)
    else:
        end = [dense(build, raw, objectness=False, decode=False)]
    path = save(build, tmp_path / "tiny.onnx", end)
    graph = from_onnx(path, layout=None if layout == "yolov8" else layout)
    assert (graph.spec.family, graph.spec.strides) == (layout, strides)
    image = IMAGE if layout == "yolov8" else IMAGE[:, ::-1].copy() / 255
    expected = _expected(tmp_path / "raw.onnx", strides)
    np.testing.assert_allclose(run(graph.model, image), expected, rtol=2e-4, atol=2e-4)


def test_anchors_are_of_their_own_strides(tmp_path: Path) -> None:
    """Four levels from stride 4 on have not the anchors of four from 8 on."""
    build = Builder(named=True, size_hw=SIZE_HW, strides=(4, 8, 16, 32))
    raw = network(build, "images", columns=3 * (5 + CLASSES), head="detect", focus=False)
    path = save(build, tmp_path / "tiny.onnx", levels(build, raw))
    with pytest.raises(CheckpointError, match="of no known layout"):
        from_onnx(path)


@pytest.mark.parametrize("count", [160, 100])  # as many as two levels have cells here, and not
def test_number_of_the_best_is_not_taken_for_cells(tmp_path: Path, count: int) -> None:
    build = Builder(named=True, size_hw=SIZE_HW)
    end = selected(build, _network(build), count)
    graph = from_onnx(save(build, tmp_path / "tiny.onnx", end), layout="yolov10")
    assert graph.model.outputs[0].get_shape()[2] == 16 * 32 + 8 * 16 + 4 * 8


@pytest.mark.parametrize("batch", [2, 4])
def test_batch_in_every_reshape_becomes_one(tmp_path: Path, batch: int) -> None:
    """A size that is worked out from the batch, as exporters write it for several images."""
    one = _file(tmp_path / "one.onnx")
    proto = onnx.load(one)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    shapes = {node.input[1] for node in proto.graph.node if node.op_type == "Reshape"}  # [1, …]
    assert shapes
    for tensor in proto.graph.initializer:
        if tensor.name in shapes:
            entries = onnx.numpy_helper.to_array(tensor).copy()
            entries[0] = batch
            tensor.CopyFrom(onnx.numpy_helper.from_array(entries, tensor.name))
    several = tmp_path / "several.onnx"
    onnx.save(proto, several)
    np.testing.assert_allclose(
        run(from_onnx(several).model, IMAGE), run(from_onnx(one).model, IMAGE), rtol=1e-4, atol=1e-4
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nodes_come_behind_what_they_read(tmp_path: Path, data: st.DataObject) -> None:
    """ONNX asks for it; its conversion to half precision does not heed that."""
    path = _file(tmp_path / "tiny.onnx")
    proto = onnx.load(path)
    sorted_already = list(proto.graph.node)
    assert list(read_onnx(path).graph.node) == sorted_already
    _reorder(path, data.draw(st.permutations(sorted_already)))
    nodes = list(read_onnx(path).graph.node)
    assert sorted(node.name for node in nodes) == sorted(node.name for node in sorted_already)
    made = {"images", "", *(tensor.name for tensor in proto.graph.initializer)}
    for node in nodes:
        assert made >= set(node.input)
        made |= set(node.output)


def test_nodes_may_be_in_any_order(tmp_path: Path) -> None:
    path = _file(tmp_path / "tiny.onnx")
    expected = run(from_onnx(path).model, IMAGE)
    _reorder(path, list(onnx.load(path).graph.node)[::-1])
    np.testing.assert_array_equal(run(from_onnx(path).model, IMAGE), expected)


def _reorder(path: Path, nodes: Sequence[onnx.NodeProto]) -> None:
    proto = onnx.load(path)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.save(proto, path)


def test_order_goes_by_what_branches_read(tmp_path: Path) -> None:
    """A node inside another may read what is made outside of it."""
    path = _file(tmp_path / "tiny.onnx")
    expected = run(from_onnx(path).model, IMAGE)
    proto = onnx.load(path)
    end = proto.graph.output[0].name
    chosen = _branching(proto, [helper.make_node("Identity", [end], ["kept"])])
    proto.graph.node.insert(0, chosen)
    proto.graph.output[0].name = chosen.output[0]
    onnx.save(proto, path)
    np.testing.assert_allclose(run(from_onnx(path).model, IMAGE), expected, rtol=1e-5, atol=1e-5)


def test_names_inside_branches_are_their_own(tmp_path: Path) -> None:
    """A later node may make outside what a branch has made for itself."""
    path = _file(tmp_path / "tiny.onnx")
    proto = onnx.load(path)
    end = proto.graph.output[0].name
    first = helper.make_node("Identity", [end], ["again"])
    chosen = _branching(proto, [first, helper.make_node("Identity", ["again"], ["kept"])])
    proto.graph.node.append(chosen)
    proto.graph.node.append(helper.make_node("Identity", chosen.output, ["again"], "last"))
    proto.graph.output[0].name = "again"
    onnx.save(proto, path)
    order = [node.name for node in proto.graph.node]
    assert [node.name for node in read_onnx(path).graph.node] == order


def _branching(proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> onnx.NodeProto:
    """An If with ``nodes``, which make ``kept``, in both branches; changes the constants."""
    proto.graph.initializer.append(helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True]))
    made = helper.make_tensor_value_info("kept", onnx.TensorProto.FLOAT, None)
    inner = helper.make_graph(nodes, "branch", [], [made])
    both = {"then_branch": inner, "else_branch": inner}
    return helper.make_node("If", ["yes"], ["chosen"], "which", **both)


def test_as_many_cells_as_there_are_queries(tmp_path: Path) -> None:
    """Two levels of 192x320 have 300 cells."""
    build = Builder(named=True, size_hw=(192, 320), strides=(16, 32))
    graph = from_onnx(save(build, tmp_path / "tiny.onnx", decoded_columns(build, _network(build))))
    assert (graph.spec.family, graph.spec.strides) == ("yolov8", (16, 32))
    assert graph.model.outputs[0].get_shape()[2] == 300


def test_circle_is_an_error(tmp_path: Path) -> None:
    path = _file(tmp_path / "tiny.onnx")
    proto = onnx.load(path)
    first = proto.graph.node[0]
    last = next(node for node in proto.graph.node if node.op_type == "Concat")
    first.input[0] = last.output[0]
    onnx.save(proto, path)
    with pytest.raises(CheckpointError, match="reads its own output"):
        from_onnx(path)


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("segment", "segmentation"),
        ("pose", "poses"),
        ("obb", "oriented boxes"),
        ("classify", "classification"),
    ],
)
def test_other_tasks_are_told_as_such(tmp_path: Path, task: str, told: str) -> None:
    path = _file(tmp_path / "tiny.onnx", metadata={"task": task})
    with pytest.raises(CheckpointError, match=f"a network for {told}, as it says itself"):
        from_onnx(path)


def test_detectors_may_say_what_they_are(tmp_path: Path) -> None:
    path = _file(tmp_path / "tiny.onnx", metadata={"task": "detect"})
    assert from_onnx(path).spec.family == "yolov8"
