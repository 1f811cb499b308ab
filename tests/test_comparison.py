"""Several recipes side by side, from Python: what the command line and the quickstart print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import detq
from detq import api
from detq.api import comparison, sources
from detq.config import Recipe
from detq.data.images import write_image
from detq.errors import ConfigError, DataError
from detq.graph.detector_graph import DetectorGraph
from detq.records import BenchResult
from detq.runtime.machine import float_precisions
from detq.tasks import detection

FLOATS = [sources.FLOAT[precision] for precision in float_precisions()]


def test_every_recipe_has_a_row_behind_the_float_model(
    colour_graph: DetectorGraph, colour_data: Path, tmp_path: Path
) -> None:
    comparison = detq.compare(colour_graph, ["minmax", "kl"], data=colour_data, rounds=1)
    labels = [*FLOATS, "minmax", "kl"]
    assert [row.label for row in comparison.rows] == labels
    assert [score.model for score in comparison.scores] == labels
    assert comparison.rows[0].graph is colour_graph
    assert all(row.graph is colour_graph for row in comparison.rows[: len(FLOATS)])
    assert [row.speed.float_precision for row in comparison.rows[: len(FLOATS)]] == [
        *float_precisions()
    ]
    assert comparison.result.quantized.recipe.name == "kl"
    assert (comparison.split, comparison.preset, comparison.overlap) == ("val", "yolov6", 2)
    assert comparison.left_out == {}
    comparison.save(tmp_path / "model")
    section = yaml.safe_load((tmp_path / "model/metadata.yaml").read_text())["detq"]
    assert section["measured"] == comparison.measured()
    assert list(section["measured"]["models"]) == labels


def test_without_ground_truth_there_are_no_scores(
    colour_graph: DetectorGraph, colour_images: Path
) -> None:
    comparison = detq.compare(colour_graph, data=colour_images, rounds=1)
    assert (comparison.scores, comparison.measured()) == ([], None)
    assert [row.label for row in comparison.rows] == [*FLOATS, api.DEFAULT_RECIPE]
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
        ([Recipe(name="float bf16")], "'float bf16' would be two rows"),
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


def _compared(label: str, graph: DetectorGraph, latency_ms: float, precision: str) -> api.Compared:
    speed = BenchResult(
        model="m",
        latency_ms=latency_ms,
        latency_p90_ms=latency_ms,
        latency_p99_ms=latency_ms,
        speedup=10 / latency_ms,
        of_f32=None,
        float_precision=precision,
        precision="fp32",
        int8_share=0.0,
        macs_per_s=1.0,
        size_mb=1.0,
    )
    return api.Compared(label, graph, speed, None)


@pytest.mark.parametrize(
    ("f32_ms", "bf16_ms", "int8_ms", "fastest", "little"),
    [
        (30.0, 10.0, 9.0, "bf16", True),
        (30.0, 10.0, 5.0, "bf16", False),
        (10, 12, 9.5, "f32", False),
    ],
)
def test_the_fastest_float_is_the_baseline(
    colour_graph: DetectorGraph,
    f32_ms: float,
    bf16_ms: float,
    int8_ms: float,
    fastest: str,
    little: bool,
) -> None:
    """Where a float of 16 bits is nearly as fast as INT8, that is said."""
    rows = (
        _compared("float", colour_graph, f32_ms, "f32"),
        _compared("float bf16", colour_graph, bf16_ms, "bf16"),
        _compared("kl", DetectorGraph(colour_graph.model, colour_graph.spec), int8_ms, "f32"),
    )
    found = api.Comparison(rows, None, "val", "coco", 0, {})  # type: ignore[arg-type]
    assert found.fastest_float.speed.float_precision == fastest
    assert found.nearly_as_fast == (fastest if little else None)


def test_classes_that_the_model_does_not_know_are_told_before_anything_is_quantized(
    colour_graph: DetectorGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told when all passes had run."""
    for folder in ("images/val", "labels/val"):
        (tmp_path / folder).mkdir(parents=True)
    write_image(tmp_path / "images/val/a.png", np.zeros((32, 64, 3), np.uint8))
    (tmp_path / "labels/val/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    data = tmp_path / "data.yaml"
    splits = "train: images/val\nval: images/val\n"
    data.write_text(f"path: {tmp_path}\n{splits}names: [cat, dog, owl]\n")
    monkeypatch.setattr(comparison, "quantize", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(DataError, match="does not know 1 of the data set's classes: cat"):
        comparison.compare(colour_graph, data=data)
