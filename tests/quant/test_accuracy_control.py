from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_graphs import Source, images, repvgg_like, run

from detq.config import RangesConfig, Recipe, WeightsConfig
from detq.errors import AccuracyError, GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.numerics.output_error import output_error
from detq.quant.accuracy_control import DropMemory, HeldAccuracy, control_accuracy
from detq.quant.quantizer import QuantizedDetector, fall_back_to_float, quantize_graph

IMAGES = images(6)
COARSE = Recipe(
    name="coarse",
    weights=WeightsConfig(bits=4),
    ranges=RangesConfig(backbone="minmax", neck="minmax", head="minmax"),
)
GRAPH = repvgg_like()
EXACT = run(GRAPH.model, IMAGES)


@pytest.fixture(scope="module")
def quantized() -> QuantizedDetector:
    return quantize_graph(GRAPH, COARSE, Source(IMAGES))


def _drop(graph: DetectorGraph) -> float:
    found = run(graph.model, IMAGES)
    pairs = zip(EXACT, found, strict=True)
    return float(np.mean([output_error(one[None], two[None]) for one, two in pairs]))


def _hold(
    quantized: QuantizedDetector,
    max_drop: float,
    *,
    drop_of: Callable[[DetectorGraph], float] = _drop,
    limit_s: float = 600,
    path: Path | None = None,
) -> HeldAccuracy:
    return control_accuracy(
        quantized,
        Source(IMAGES),
        drop_of,
        max_drop=max_drop,
        limit_s=limit_s,
        memory=DropMemory(path, "key"),
        progress=lambda stage, done, total: None,
    )


def test_drop_that_holds_already_costs_nothing(quantized: QuantizedDetector) -> None:
    result = _hold(quantized, 1e6)
    assert (result.returned, result.cost) == ((), 0.0)
    assert result.quantized is quantized


def test_layers_are_given_back_until_the_drop_holds(quantized: QuantizedDetector) -> None:
    before = _drop(quantized.graph)
    result = _hold(quantized, 0.8 * before)
    assert len(result.returned) >= 1
    assert _drop(result.quantized.graph) <= 0.8 * before
    assert 0 < result.mac_share <= 0.5
    assert result.quantized.unfinished.in_float == set(result.returned)


def test_drop_that_cannot_be_held_is_refused(quantized: QuantizedDetector) -> None:
    with pytest.raises(AccuracyError, match=r"still loses .* more than --max-drop 0.*nothing was"):
        _hold(quantized, 0.0, drop_of=lambda graph: 1.0)


def test_giving_everything_back_is_the_float_network(quantized: QuantizedDetector) -> None:
    names = [quantizer.name for quantizer in quantized.quantizers]
    returned = fall_back_to_float(quantized, names, Source(IMAGES))
    np.testing.assert_allclose(run(returned.graph.model, IMAGES), EXACT, rtol=1e-4, atol=1e-4)


def test_unknown_quantizer(quantized: QuantizedDetector) -> None:
    with pytest.raises(GraphError, match="no quantizer is named 'x'"):
        fall_back_to_float(quantized, ["x"], Source(IMAGES))


def test_search_cut_off_goes_on_where_it_was(quantized: QuantizedDetector, tmp_path: Path) -> None:
    path = tmp_path / "drops.json"
    asked = []

    def failing(graph: DetectorGraph) -> float:
        asked.append(graph)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        _hold(quantized, 0.5, drop_of=failing, path=path)
    assert path.is_file()
    result = _hold(quantized, 0.5, drop_of=lambda graph: asked.append(graph) or 0.1, path=path)  # type: ignore[func-returns-value]
    assert len(asked) == 3  # not once more for the drop that was known
    assert result.drops == {0: 1.0, 1: 0.1}
    assert not path.exists()


def test_time_limit_says_how_to_go_on(quantized: QuantizedDetector, tmp_path: Path) -> None:
    with pytest.raises(AccuracyError, match=r"time limit is over, .* so far is 1\.00"):
        _hold(quantized, 0.5, drop_of=lambda graph: 1.0, limit_s=0, path=tmp_path / "g.json")
    assert (tmp_path / "g.json").is_file()


def test_memory_of_another_job_is_not_used(quantized: QuantizedDetector, tmp_path: Path) -> None:
    path = tmp_path / "drops.json"
    other = DropMemory(path, "other")
    other.drops[0] = 0.0
    other.write()
    assert _hold(quantized, 0.5, drop_of=lambda graph: 0.4, path=path).drops == {0: 0.4}


@pytest.mark.parametrize(
    "content",
    [
        b"[1",
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"key": "key", "order": [], "drops": {"0": 0.1}}',
        b'{"key": "key", "order": [], "drops": {"0": 0.1}, "sha256": "0"}',
    ],
)
def test_damaged_memory_counts_as_missing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "drops.json"
    path.write_bytes(content)
    memory = DropMemory(path, "key")
    assert (memory.order, memory.drops) == ([], {})
    memory.drops[3] = 0.25
    memory.write()
    assert DropMemory(path, "key").drops == {3: 0.25}


def test_no_bit_of_a_memory_can_flip_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "drops.json"
    memory = DropMemory(path, "key")
    memory.order, memory.drops = ["a", "b"], {0: 0.125, 2: 0.0625}
    memory.write()
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        found = DropMemory(path, "key")
        assert (found.order, found.drops) in (([], {}), (memory.order, memory.drops))


@pytest.mark.parametrize("obstacle", ["folder", "fifo", "dead link"])
def test_memory_whose_place_is_taken(tmp_path: Path, obstacle: str) -> None:
    path = tmp_path / "drops.json"
    make = {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path)}
    make.get(obstacle, lambda: path.symlink_to("nowhere"))()
    memory = DropMemory(path, "key")
    memory.drops[0] = 0.5
    memory.write()
    assert path.is_dir() or DropMemory(path, "key").drops == {0: 0.5}
    memory.forget()
    assert path.is_dir() == path.exists()


def test_steps_tell_of_each_pass_once(quantized: QuantizedDetector) -> None:
    name = quantized.quantizers[-1].name
    returned = fall_back_to_float(quantized, [name], Source(IMAGES))
    assert [step.name for step in returned.steps] == [step.name for step in quantized.steps]
