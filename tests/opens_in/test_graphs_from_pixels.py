"""``detq export`` for programs that only run graphs: what is written, and what it finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pairing import worst_px

import detq
from detq.artifact import read_artifact
from detq.errors import ArtifactError, CheckpointError, ConfigError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.execute import compile_exact, core

GREY_LEVEL_PX = 0.7
"""One grey level more or less moves boxes of the INT8 model so far, in pictures of 256x256."""


def _row(detections: np.ndarray) -> dict[str, list[object]]:
    return {
        "boxes": detections[:, :4].tolist(),
        "scores": detections[:, 4].tolist(),
        "class_ids": detections[:, 5].tolist(),
    }


@pytest.mark.parametrize("is_int8", [False, True], ids=["float", "int8"])
def test_pixels_of_any_size_to_boxes(
    float_graph: DetectorGraph,
    int8_graph: DetectorGraph,
    scenes: list[detq.ImageBGR],
    tmp_path: Path,
    is_int8: bool,
) -> None:
    graph = int8_graph if is_int8 else float_graph
    path = detq.export(graph, tmp_path / "x", format="openvino", embed_preprocess=True, iou=0.6)
    compiled = compile_exact(core().read_model(next(path.glob("*.xml"))))
    detector = detq.detector(graph, confidence=0.25, iou=0.6)
    for scene in scenes:
        found = _row(np.asarray(compiled([scene[None]])[0]))
        expected = detector.detect(scene).columns()
        assert worst_px(found, expected, confidence=0.25, apart=0.06) < GREY_LEVEL_PX


def test_repository_for_the_model_server(
    int8_graph: DetectorGraph, scenes: list[detq.ImageBGR], tmp_path: Path
) -> None:
    """Its graph takes letterboxed pixels as they are."""
    path = detq.export(int8_graph, tmp_path / "models", format="ovms")
    name = int8_graph.spec.name
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert files == {"config.json", f"{name}/1/{name}.xml", f"{name}/1/{name}.bin"}
    (entry,) = json.loads((path / "config.json").read_text())["model_config_list"]
    assert (entry["config"]["name"], entry["config"]["base_path"]) == (name, name)
    model = core().read_model(path / f"{name}/1/{name}.xml")
    (port,) = model.inputs
    assert port.get_element_type().to_dtype() == np.uint8
    assert list(port.get_shape()) == [1, *int8_graph.spec.size_hw, 3]
    assert str(model.get_parameters()[0].get_layout()) == "[N,H,W,C]"
    detector = detq.detector(int8_graph)
    pixels, _ = detector.preprocess.place(scenes[0])
    np.testing.assert_array_equal(compile_exact(model)([pixels])[0], detector.infer(pixels))


def test_only_what_was_written_here_is_replaced(
    colour_graph: DetectorGraph, tmp_path: Path
) -> None:
    path = detq.export(colour_graph, tmp_path / "models", format="ovms")
    assert detq.export(colour_graph, path, format="ovms", embed_preprocess=True) == path
    (path / "colours/2").mkdir()  # a version that somebody else has put there
    with pytest.raises(ArtifactError, match="no repository of one model that detq wrote"):
        detq.export(colour_graph, path, format="ovms")
    with pytest.raises(ArtifactError, match="exists"):
        detq.export(colour_graph, path, format="openvino", embed_preprocess=True)


def test_graphs_from_pixels_are_not_read_back(colour_graph: DetectorGraph, tmp_path: Path) -> None:
    boxes = detq.export(colour_graph, tmp_path / "x", format="openvino", embed_preprocess=True)
    with pytest.raises(CheckpointError, match="from pixels to boxes, for other programs"):
        read_artifact(boxes)
    served = detq.export(colour_graph, tmp_path / "y", format="ovms", embed_preprocess=True)
    with pytest.raises(CheckpointError, match="depends on the image"):
        read_artifact(served / "colours/1/colours.xml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx", "embed_preprocess": True}, "writes openvino and ovms alone"),
        ({"format": "ovms", "confidence": 0.5}, "are of the graph with --embed-preprocess"),
    ],
)
def test_what_does_not_go_together(
    colour_graph: DetectorGraph, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        detq.export(colour_graph, tmp_path / "x", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format_", ["openvino", "ovms"])
def test_portable_graph_has_no_folded_zero_points(
    int8_graph: DetectorGraph, scenes: list[detq.ImageBGR], tmp_path: Path, format_: str
) -> None:
    """Which OpenVINO 2026.4 cannot compile on Arm; it finds the same."""
    path = detq.export(int8_graph, tmp_path / "x", format=format_, portable=True)  # type: ignore[arg-type]
    model = core().read_model(next(path.rglob("*.xml")))
    names = [node.get_friendly_name() for node in int8_graph.model.get_ops()]
    assert any(name.endswith("/shift") for name in names)
    assert not any(node.get_friendly_name().endswith("/shift") for node in model.get_ops())
    if format_ == "openvino":
        found, expected = (
            detq.detector(each).detect(scenes[0]).columns() for each in (path, int8_graph)
        )
        assert worst_px(found, expected, confidence=0.25, apart=0.01) < 0.05
