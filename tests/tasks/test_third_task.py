"""A task that detq does not know goes all the way, from a module of its own and two entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measuring
import numpy as np
import openvino as ov
import pytest
import yaml
from openvino import opset15 as ops

import detq
from detq import contract, tasks
from detq.config import DatasetConfig
from detq.graph.detector_graph import DetectorGraph
from detq.records import ModelSpec


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> DetectorGraph:
    """A network that measures how much of each colour an image of 32x64 pixels shows."""
    monkeypatch.setitem(contract.CONTRACTS, "measure", measuring.CONTRACT)  # type: ignore[arg-type]
    monkeypatch.setitem(tasks.TASKS, "measure", measuring)  # type: ignore[arg-type]
    image = ops.parameter([1, 3, 32, 64], ov.Type.f32, name="images")
    identity = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    colours = ops.convolution(image, ops.constant(identity), [1, 1], [0, 0], [0, 0], [1, 1])
    colours.set_friendly_name("colours")
    shares = ops.reduce_mean(ops.relu(colours), np.array([2, 3]), False)
    model = ov.Model([ops.result(shares)], [image], "colours")
    model.inputs[0].get_tensor().set_names({"images"})
    model.outputs[0].get_tensor().set_names({"shares"})
    task: Any = "measure"
    names = ("red", "green", "blue")
    return DetectorGraph(model, ModelSpec("colours", "test", names, (1,), (32, 64), task=task))


@pytest.fixture
def data(colour_images: Path) -> DatasetConfig:
    names = {0: "red", 1: "green", 2: "blue"}
    return DatasetConfig(path=colour_images, train=".", val=".", names=names)


def test_it_is_judged_and_quantized_and_written(
    graph: DetectorGraph, data: DatasetConfig, tmp_path: Path
) -> None:
    exact = detq.evaluate(graph, data=data)
    assert exact.score == exact.closeness == pytest.approx(100, abs=1)
    result = detq.quantize(graph, data=data, recipe="minmax")
    assert result.agreement == pytest.approx(100, abs=1)
    assert detq.evaluate(result.graph, data=data).closeness == pytest.approx(100, abs=2)
    result.save(tmp_path / "model")
    metadata = yaml.safe_load((tmp_path / "model/metadata.yaml").read_text())
    assert metadata["task"] == "measure"
    assert metadata["detq"]["preprocess"]["resize"] == "shorter side"
    assert "both find the same shares" in (tmp_path / "model/report.html").read_text()


def test_it_is_compared(graph: DetectorGraph, data: DatasetConfig) -> None:
    comparison = detq.compare(graph, ["minmax", "nncf"], data=data, rounds=1)
    labels = [row.label for row in comparison.rows]
    assert (labels[0], labels[-2:]) == ("float", ["minmax", "nncf"])
    assert [list(score.scores) for score in comparison.scores] == [["closeness"]] * len(labels)


def test_who_runs_it_as_another_is_told_what_it_is(graph: DetectorGraph) -> None:
    with pytest.raises(detq.DetqError, match="colours: measures colours"):
        detq.detector(graph)
