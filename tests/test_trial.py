"""Graph files that end or hang OpenVINO do that elsewhere; this process says so in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, helper, numpy_helper
from openvino import opset15 as ops

import detq
from detq.api import sources
from detq.artifact import write_artifact
from detq.errors import CheckpointError, DownloadError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.trust import is_trusted, trust


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETQ_CACHE", str(tmp_path / "cache"))


def _resized_to_terabytes(path: Path) -> Path:
    """Valid by ONNX's rules, some hundred bytes, and 16 TB when it is run."""
    factors = numpy_helper.from_array(np.array([1, 1, 1e6, 1e6], np.float32), "factors")
    nodes = [helper.make_node("Resize", ["images", "", "factors"], ["large"], mode="nearest")]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 1024, 1024])
    large = helper.make_tensor_value_info("large", TensorProto.FLOAT, [1, 3, None, None])
    graph = helper.make_graph(nodes, "large", [image], [large], [factors])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def test_a_graph_that_takes_all_memory_is_one_error(tmp_path: Path) -> None:
    path = _resized_to_terabytes(tmp_path / "large.onnx")
    with pytest.raises(CheckpointError, match=r"large\.onnx: "):
        detq.load(path)
    assert not is_trusted(path)


def test_published_files_that_end_or_hang_openvino_are_errors(shared: Path) -> None:
    for name in ("onnx_seed12", "onnx_seed368"):
        with pytest.raises(CheckpointError, match=rf"{name}\.onnx: not a readable ONNX model"):
            detq.load(shared / f"cases/hostile/{name}.onnx")


def test_an_error_is_the_same_as_without_another_process(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"garbage")
    with pytest.raises(CheckpointError) as first:
        detq.load(tmp_path / "x.onnx")
    with pytest.raises(CheckpointError) as second:
        sources.load_untried(tmp_path / "x.onnx", None, None)
    assert str(first.value) == str(second.value)


def test_what_detq_wrote_is_not_tried_again(
    tmp_path: Path, colour_graph: DetectorGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(colour_graph, tmp_path / "model")
    monkeypatch.setattr("subprocess.run", None)
    assert detq.load(tmp_path / "model").spec.name == colour_graph.spec.name


def test_trust_ends_where_the_content_changes(tmp_path: Path) -> None:
    image = ops.parameter([1, 3, 4, 4], np.float32, name="images")
    ov.save_model(ov.Model([ops.result(ops.relu(image))], [image], "x"), tmp_path / "x.xml")
    trust(tmp_path / "x.xml")
    assert is_trusted(tmp_path / "x.xml")
    (tmp_path / "x.bin").write_bytes(b"other")
    assert not is_trusted(tmp_path / "x.xml")


def test_without_a_cache_folder_files_are_tried_each_time(
    tmp_path: Path, colour_graph: DetectorGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("no folder")
    write_artifact(colour_graph, tmp_path / "model")
    assert not is_trusted(tmp_path / "model" / f"{colour_graph.spec.name}.xml")
    assert detq.load(tmp_path / "model").spec.name == colour_graph.spec.name


def test_without_a_home_directory_files_are_tried_each_time(
    tmp_path: Path, colour_graph: DetectorGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise DownloadError("there is no home directory")

    monkeypatch.setattr("detq.graph.trust.cache_folder", homeless)
    write_artifact(colour_graph, tmp_path / "model")
    assert detq.load(tmp_path / "model").spec.name == colour_graph.spec.name
