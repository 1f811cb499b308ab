"""Runtime options for one machine: what is tried, what is kept, and who uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import Command

import detq
from detq import evaluate, tuning
from detq.artifact import write_artifact
from detq.benchmark import Variant
from detq.errors import ArtifactError
from detq.graph.detector_graph import DetectorGraph
from detq.records import BenchResult
from detq.runtime import tuned
from detq.runtime.options import RuntimeOptions

Speed = Callable[[RuntimeOptions], float]


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Speed], None]:
    """Images per second by the options alone."""

    def clock(speed: Speed) -> None:
        def measured(variants: list[Variant], **_: object) -> list[BenchResult]:
            rates = [speed(each.options) for each in variants]
            return [
                BenchResult("m", 1, 1, 1, 1, None, each.float_precision, "int8", 1, 1, 1, rate, 2)
                for each, rate in zip(variants, rates, strict=True)
            ]

        monkeypatch.setitem(tuning.tune.__globals__, "bench", measured)

    return clock


def test_what_gains_too_little_is_chance(
    colour_graph: DetectorGraph, clocked: Callable[[Speed], None]
) -> None:
    clocked(lambda options: 102 if options.streams == 1 else 100)
    found = tuning.tune(colour_graph)
    assert found.best is found.tried[0]
    assert found.best.options == RuntimeOptions()


def test_the_fastest_is_kept(colour_graph: DetectorGraph, clocked: Callable[[Speed], None]) -> None:
    clocked(lambda options: 100 + 20 * (options.streams == 1) + 5 * (options.pinning is False))
    found = tuning.tune(colour_graph)
    assert (found.best.options.streams, found.best.options.pinning) == (1, False)
    assert {one.options.float_precision for one in found.tried} == {"f32"}  # without images


@pytest.mark.parametrize(("agrees", "wanted"), [(99.9, "bf16"), (99.5, "f32"), (None, "f32")])
def test_sixteen_bits_must_be_faster_and_find_the_same(
    colour_graph: DetectorGraph,
    colour_images: Path,
    clocked: Callable[[Speed], None],
    monkeypatch: pytest.MonkeyPatch,
    agrees: float | None,
    wanted: str,
) -> None:
    clocked(lambda options: 110 if options.float_precision == "bf16" else 100)
    monkeypatch.setitem(tuning.tune.__globals__, "float_precisions", lambda: ("f32", "bf16"))
    monkeypatch.setitem(tuning.tune.__globals__, "_agreement", lambda *_: agrees)
    found = tuning.tune(colour_graph, sorted(colour_images.glob("*.png")))
    assert found.best.options.float_precision == wanted
    assert found.tried[-1].agreement == agrees


def test_real_models_are_tuned(colour_graph: DetectorGraph, colour_images: Path) -> None:
    found = tuning.tune(colour_graph, sorted(colour_images.glob("*.png")), bursts=1)
    assert all((one.speed.images_per_s or 0) > 0 for one in found.tried)
    assert found.best in found.tried
    sixteen = [one for one in found.tried if one.options.float_precision != "f32"]
    assert all(one.agreement == pytest.approx(100) for one in sixteen)


@pytest.fixture
def directory(colour_graph: DetectorGraph, tmp_path: Path) -> Path:
    write_artifact(colour_graph, tmp_path / "model")
    return tmp_path / "model"


OPTIONS = RuntimeOptions(streams=1, pinning=False)


def test_a_tuned_directory_runs_as_it_was_tuned(directory: Path) -> None:
    assert detq.detector(directory).options == RuntimeOptions()
    tuned.write_tuned(directory, OPTIONS)
    assert detq.detector(directory).options == OPTIONS
    assert detq.detector(directory / "colours.xml").options == OPTIONS
    assert detq.detector(directory, options=RuntimeOptions(requests=1)).options.streams is None
    image = np.zeros((32, 64, 3), np.uint8)
    assert len(detq.detector(directory).detect(image)) == 0


def test_a_tuned_directory_is_evaluated_as_it_runs(
    detq: Command, directory: Path, colour_images: Path
) -> None:
    """What is evaluated is what ships, and eval says so where it changes what is found."""
    data = colour_images.parents[1] / "data.yaml"
    data.write_text("path: .\nval: images/val\nnames: [red, green, blue]\n")
    plain = detq("eval", directory, "--data", data)
    tuned.write_tuned(directory, RuntimeOptions(float_precision="bf16"))
    done = detq("eval", directory, "--data", data)
    assert (plain.status, done.status) == (0, 0), done.err
    assert "computes in bf16" in done.err
    assert "computes in" not in plain.err
    found = evaluate(directory, data=data)
    exact = evaluate(directory, data=data, options=RuntimeOptions(float_precision="bf16"))
    assert replace(found, seconds=exact.seconds) == exact


def test_another_machine_has_the_defaults(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned.write_tuned(directory, OPTIONS)
    monkeypatch.setattr(tuned, "core_count", lambda: 77)
    assert tuned.read_tuned(directory) is None


def test_so_has_one_that_is_held_to_older_instructions(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not even have kernels for the float that was fastest."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    tuned.write_tuned(directory, RuntimeOptions(float_precision="bf16"))
    assert tuned.read_tuned(directory) is not None
    has_some = bool(tuned.cpu_features())
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert (tuned.read_tuned(directory) is None) == has_some


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b"no json",
        b"\xff",
        b'{"made_on": {}, "settings": {"streams": -1}}',
        None,
    ],
)
def test_a_damaged_file_is_one_line(directory: Path, content: bytes | None) -> None:
    if content is None:
        (directory / tuned.FILE).mkdir()
    else:
        (directory / tuned.FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"runtime\.json: not what `detq bench --tune` writes"):
        detq.detector(directory)


def test_what_is_written_is_plain(directory: Path) -> None:
    path = tuned.write_tuned(directory, OPTIONS)
    document = json.loads(path.read_text())
    assert document["settings"] == {"streams": 1, "pinning": False, "float_precision": "f32"}
    assert set(document["made_on"]) == {"cpu", "features", "cores", "openvino"}


def test_only_what_detq_wrote_is_tuned(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="only a directory that detq wrote"):
        detq.tune(tmp_path)
    assert not (tmp_path / tuned.FILE).exists()


def test_all_models_are_looked_at_before_one_is_tuned(detq: Command, directory: Path) -> None:
    done = detq("bench", directory, directory / "colours.xml", "--tune")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert not (directory / tuned.FILE).exists()


@pytest.mark.parametrize(
    "given", [("--peer", "benchmark_app"), ("--layers",), ("--threads", "1"), ("--no-pin",)]
)
def test_what_tuning_does_not_heed_is_refused(
    detq: Command, directory: Path, given: tuple[str, ...]
) -> None:
    done = detq("bench", directory, "--tune", *given)
    assert done.status == 1
    assert done.err.startswith("error: --tune: finds out by itself")
