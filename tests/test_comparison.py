"""Several recipes side by side, from Python: what the command line and the quickstart print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import detq
from detq import api
from detq.config import Recipe
from detq.errors import ConfigError
from detq.graph.detector_graph import DetectorGraph
from detq.tasks import detection


def test_every_recipe_has_a_row_behind_the_float_model(
    colour_graph: DetectorGraph, colour_data: Path, tmp_path: Path
) -> None:
    comparison = detq.compare(colour_graph, ["minmax", "kl"], data=colour_data, rounds=1)
    assert [row.label for row in comparison.rows] == ["float", "minmax", "kl"]
    assert [score.model for score in comparison.scores] == ["float", "minmax", "kl"]
    assert comparison.rows[0].graph is colour_graph
    assert comparison.result.quantized.recipe.name == "kl"
    assert (comparison.split, comparison.preset, comparison.overlap) == ("val", "yolov6", 2)
    assert comparison.left_out == {}
    comparison.save(tmp_path / "model")
    section = yaml.safe_load((tmp_path / "model/metadata.yaml").read_text())["detq"]
    assert section["measured"] == comparison.measured()
    assert list(section["measured"]["models"]) == ["float", "minmax", "kl"]


def test_without_ground_truth_there_are_no_scores(
    colour_graph: DetectorGraph, colour_images: Path
) -> None:
    comparison = detq.compare(colour_graph, data=colour_images, rounds=1)
    assert (comparison.scores, comparison.measured()) == ([], None)
    assert [row.label for row in comparison.rows] == ["float", api.DEFAULT_RECIPE]
    assert all(row.speed.latency_ms > 0 for row in comparison.rows)


def test_what_cannot_be_compared_is_said_first(
    colour_graph: DetectorGraph, colour_data: Path
) -> None:
    stages: list[str] = []
    compare: Callable[..., api.Comparison] = detq.compare
    for recipes, words in (
        ([], "at least one recipe"),
        (["kl", "kl"], "'kl' would be two rows"),
        ([Recipe(name="float")], "'float' would be two rows"),
    ):
        with pytest.raises(ConfigError, match=words):
            compare(
                colour_graph, recipes, data=colour_data, progress=lambda *step: stages.append(step)
            )
    with pytest.raises(ConfigError, match="preset 'voc'"):
        detq.compare(colour_graph, data=colour_data, preset="voc")
    assert not stages


def test_evidence_is_measured_once(
    colour_graph: DetectorGraph,
    colour_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[Any] = []
    differences = detection.differences

    def counted(*arguments: Any) -> Any:
        runs.append(arguments)
        return differences(*arguments)

    monkeypatch.setattr(detection, "differences", counted)
    result = detq.quantize(colour_graph, data=colour_data, recipe="minmax")
    assert not runs
    for name in "ab":
        result.save(tmp_path / name)
    assert len(runs) == 1
    assert result.evidence.judged == 2
