"""Real programs in processes of their own, on a small model and few images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from command_line import Command

from detq import api
from detq.benchmark import DEFAULT_OPTIONS, Variant
from detq.console.speed import print_stages
from detq.data.images import write_image
from detq.errors import CheckpointError, ConfigError, DataError, DetqError
from detq.programs.measure import Models, ProgramSpeed, check_programs, measure_programs
from detq.runtime.options import RuntimeOptions


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for index in range(3):
        write_image(folder / f"{index}.png", np.full((32, 64, 3), 50 * index, np.uint8))
    return folder


def _models(path: Path, options: RuntimeOptions = DEFAULT_OPTIONS) -> Models:
    return {"colours": (path, Variant(api.load(path), options))}


def test_programs_are_measured_from_file_to_boxes(colour_model: Path, pictures: Path) -> None:
    steps: list[tuple[int, int]] = []
    found = measure_programs(
        # no directory, so one is written
        _models(colour_model / "colours.xml", RuntimeOptions(threads=1)),
        pictures,
        peers=["benchmark_app"],
        rounds=2,
        progress=lambda *step: steps.append(step),
    )
    own, peer = found
    assert (own.program, own.model, peer.program) == ("detq", "colours", "benchmark_app")
    assert steps == [(1, 2), (2, 2)]
    assert (own.core_ms, peer.core_ms) == (None, None)  # nobody asked
    for value in (own.first_s, own.bare_per_s, own.end_to_end_per_s, peer.bare_per_s):
        assert value is not None
        assert value > 0
    assert own.share_of_bare is not None
    assert own.peak_mb is not None
    assert own.peak_mb > 50  # Python and OpenVINO alone need more
    assert (peer.first_s, peer.end_to_end_per_s) == (None, None)


def test_stages_are_measured_one_after_the_other(
    colour_model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More images than a stage takes at once, so that requests are used again."""
    for index in range(3, 40):
        write_image(pictures / f"{index}.png", np.full((32, 64, 3), index, np.uint8))
    models = _models(colour_model)
    own, peer = measure_programs(
        models, str(pictures), peers=["benchmark_app"], rounds=1, stages=True
    )
    assert list(own.core_ms or {}) == ["read", "letterbox", "network", "boxes"]
    assert all(time_ms > 0 for time_ms in (own.core_ms or {}).values())
    assert peer.core_ms is None
    print_stages([own, peer])
    heading, names, times = capsys.readouterr().out.strip().splitlines()
    assert heading == "core-milliseconds of an image, stage after stage"
    assert names.split() == ["model", "read", "letterbox", "network", "boxes", "all"]
    *parts, total = map(float, times.split()[1:])
    assert total == pytest.approx(sum(parts), abs=0.03)


def test_stages_of_programs_that_have_none_are_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_stages([ProgramSpeed("benchmark_app", "colours")])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("peers", "said"),
    [
        (["yolact"], "peer 'yolact': expected one of ultralytics, onnxruntime, benchmark_app"),
        (
            ["ultralytics"],
            "ultralytics: (is not installed|predicts with torchv|runs an exported dir)",
        ),
    ],
    ids=["unknown", "cannot"],
)
def test_peer_that_cannot_run_is_an_error(
    colour_model: Path, pictures: Path, peers: Sequence[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        measure_programs(_models(colour_model / "colours.xml"), pictures, peers=peers)


def test_onnxruntime_runs_the_exported_graph_of_any_model(
    colour_model: Path, pictures: Path
) -> None:
    found = measure_programs(_models(colour_model), pictures, peers=["onnxruntime"], rounds=1)
    assert [speed.program for speed in found] == ["detq", "onnxruntime"]
    assert (found[1].bare_per_s or 0) > 0


def test_frames_have_their_own_shape_where_the_graph_can(shared: Path, pictures: Path) -> None:
    """The graph of NanoDet-m is bound to its size: a wish is one, an order is refused at once."""
    models = _models(shared / "models/nanodet_m.onnx")
    (own,) = measure_programs(models, pictures, rounds=1, rect=None)
    assert (own.end_to_end_per_s or 0) > 0
    with pytest.raises(CheckpointError, match=r"bound to inputs of 416x416 .* leave out --rect"):
        check_programs(models, str(pictures), (), rect=True)
    with pytest.raises(CheckpointError, match="bound to inputs of 416x416"):
        api.detector(models["colours"][1].graph, rect=True)


def test_float_models_are_measured_in_the_fastest_precision(
    detq: Command, colour_model: Path, pictures: Path
) -> None:
    """And what is wrong is said before anything is measured."""
    given = ("bench", colour_model, "--rounds", "1", "--source", pictures)
    done = detq(*given, "--peer", "benchmark_app", "--json", "speeds.json")
    assert done.status == 0, done.err
    speeds = json.loads(Path("speeds.json").read_text())
    fastest = min(speeds["models"], key=lambda model: model["latency_ms"])
    assert [program["precision"] for program in speeds["programs"]] == [fastest["precision"]] * 2
    for more, said in (
        (("--peer", "yolact"), "peer 'yolact'"),
        (("--source", "none"), "no such image or folder"),
    ):
        refused = detq(*given, *more)
        assert (refused.status, refused.out) == (1, "")
        assert said in refused.err


def test_missing_source_is_an_error(colour_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such image or folder"):
        check_programs(_models(colour_model), str(tmp_path / "none"), (), rect=None)


def test_program_that_fails_says_why(colour_model: Path, pictures: Path) -> None:
    """The first picture can be read, so it starts; the second cannot."""
    (pictures / "1.png").write_bytes(b"broken")
    with pytest.raises(DetqError, match=r"^[^:]*1\.png: "):
        measure_programs(_models(colour_model), pictures, rounds=1)
