from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops
from small_graphs import Layers, Source, detector, images, relative_error, run, through

from detq.config import RangesConfig, Recipe
from detq.graph import execute
from detq.graph.detector_graph import DetectorGraph
from detq.graph.execute import core
from detq.graph.zero_points import fold_zero_points, restore_zero_points
from detq.quant.noise import tensor_noise
from detq.quant.passes.choose_ranges import ChooseRanges
from detq.quant.passes.place_quantizers import PlaceQuantizers
from detq.quant.quantizer import quantize_graph
from detq.runtime.detector import CompiledGraph
from detq.runtime.layer_times import layer_times

IMAGES = images(4)
RANGES = RangesConfig(backbone="minmax", neck="minmax", head="minmax")
RECIPE = Recipe(name="plain", ranges=RANGES)


def _graph() -> DetectorGraph:
    """SiLU before pointwise and before padded convolutions, and a Concat with a signed part."""
    make = Layers(seed=3)
    image = make.image()
    stem = ops.swish(make.convolution(image, 8, "backbone.stem", stride=2))
    point = ops.swish(make.convolution(stem, 8, "backbone.point", kernel=1))
    wide = ops.swish(make.convolution(point, 8, "backbone.wide"))
    linear = make.convolution(wide, 8, "neck.linear", kernel=1)
    other = ops.relu(make.convolution(wide, 8, "neck.other", kernel=1))
    joined = ops.concat([linear, other], 1)
    both = ops.swish(make.convolution(joined, 8, "neck.both", kernel=1))
    return detector(image, make.convolution(both, 7, "detect.padded"))


def _placed(preset: str = "mixed") -> ov.Model:
    place = PlaceQuantizers(preset=preset)  # type: ignore[arg-type]
    choose = ChooseRanges(RANGES, symmetric=preset == "performance")
    return through(_graph(), place, choose, given=IMAGES).model


def _is_shift(node: ov.Node) -> bool:
    return bool(node.get_friendly_name().endswith("/shift"))


def test_pointwise_readers_take_the_zero_point_into_their_bias() -> None:
    placed = _placed()
    before = run(placed, IMAGES)
    changed = fold_zero_points(placed)
    assert changed == ["backbone.point", "neck.linear", "neck.other", "neck.both"]
    np.testing.assert_allclose(run(placed, IMAGES), before, rtol=1e-4, atol=1e-4)


def test_signed_grids_without_a_zero_point_stay() -> None:
    assert fold_zero_points(_placed("performance")) == []


def test_the_runtime_reads_the_integers_as_they_are() -> None:
    """No operation is executed for a shift; 1x1 kernels have no zero point left to deal with."""
    graph = _graph()
    result = quantize_graph(graph, RECIPE, Source(IMAGES))
    shifts = [n.get_friendly_name() for n in result.graph.model.get_ops() if _is_shift(n)]
    assert len(shifts) == 4
    compiled = ov.compile_model(result.graph.model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        names = str(info["originalLayersNames"].value).split(",")
        assert not any(name in shifts for name in names)
        if any(name in ("backbone.point", "neck.linear", "neck.both") for name in names):
            assert str(info["runtimePrecision"].value) == "u8"
    assert relative_error(run(result.graph.model, IMAGES), run(graph.model, IMAGES)) < 0.1


def test_restored_it_computes_the_same() -> None:
    model = quantize_graph(_graph(), RECIPE, Source(IMAGES)).graph.model
    before, restored = run(model, IMAGES), model.clone()
    restore_zero_points(restored)
    assert not any(_is_shift(node) for node in restored.get_ops())
    np.testing.assert_allclose(run(restored, IMAGES), before, rtol=1e-4, atol=1e-4)


def test_nncf_is_left_as_it_is() -> None:
    own = RangesConfig(backbone="placement", neck="placement", head="placement")
    recipe = Recipe(name="nncf", ranges=own, bias_correction="nncf")
    result = quantize_graph(_graph(), recipe, Source(IMAGES))
    assert not any(_is_shift(node) for node in result.graph.model.get_ops())


def test_on_other_processors_zero_points_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO 2026.4 refuses what is folded on Arm: "Convolution input precision should be
    single".
    """
    graph = quantize_graph(_graph(), RECIPE, Source(IMAGES)).graph
    pixels = np.random.default_rng(0).integers(0, 256, (1, *graph.spec.size_hw, 3), np.uint8)
    compiled: list[ov.Model] = []

    def compile_model(model: ov.Model, *others: object) -> ov.CompiledModel:
        compiled.append(model.clone())
        return core().compile_model(model, *others)

    monkeypatch.setattr(execute, "core", lambda: SimpleNamespace(compile_model=compile_model))
    found = [CompiledGraph(graph).infer(pixels)]
    monkeypatch.setattr(execute, "is_x86", lambda: False)
    found.append(CompiledGraph(graph).infer(pixels))
    assert [any(_is_shift(n) for n in model.get_ops()) for model in compiled] == [True, False]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_everything_that_compiles_restores_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of each layer and the noise along the network once did not."""
    result = quantize_graph(_graph(), RECIPE, Source(IMAGES))
    before = [noise.sqnr_db for noise in tensor_noise(result, IMAGES)]
    seen: list[ov.Model] = []

    def compile_model(model: ov.Model, *others: object) -> ov.CompiledModel:
        seen.append(model.clone())
        return core().compile_model(model, *others)

    monkeypatch.setattr(execute, "core", lambda: SimpleNamespace(compile_model=compile_model))
    monkeypatch.setattr(execute, "is_x86", lambda: False)
    layer_times(result.graph, rounds=1)
    assert [noise.sqnr_db for noise in tensor_noise(result, IMAGES)] == pytest.approx(
        before, abs=0.1
    )
    assert len(seen) > 1
    assert not any(_is_shift(node) for model in seen for node in model.get_ops())
