from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops
from small_graphs import Layers, Source, detector, images, limits, relative_error, run

from detq.config import RangesConfig, Recipe
from detq.graph.detector_graph import DetectorGraph
from detq.quant.calibration import activation_quantizers, choose_ranges, write_ranges
from detq.quant.observation import observe
from detq.quant.placement import place_quantizers
from detq.quant.ptq import quantize_graph
from detq.quant.zero_points import absorb_zero_points

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


def _placed(placement: str = "mixed") -> ov.Model:
    recipe = RECIPE.model_copy(update={"placement": placement})
    placed = place_quantizers(_graph(), recipe, IMAGES[:1])
    quantizers = activation_quantizers(placed)
    statistics = observe(placed, quantizers, IMAGES, bins=512)
    symmetric = placement == "performance"
    write_ranges(placed, choose_ranges(quantizers, statistics, RANGES, symmetric=symmetric))
    return placed


def _lows(model: ov.Model) -> dict[str, float]:
    quantizers = {quantizer.name for quantizer in activation_quantizers(model)}
    return {
        name: float(ends[0].min()) for name, ends in limits(model).items() if name in quantizers
    }


def test_pointwise_readers_take_the_zero_point_into_their_bias() -> None:
    placed = _placed()
    before, lows = run(placed, IMAGES), _lows(placed)
    changed = absorb_zero_points(placed)
    after = _lows(placed)
    assert len(changed) == 4  # stem, wide, and both parts of the Concat
    assert any(lows[name] < 0 for name in changed)
    for name, low in after.items():
        assert low == (0 if name in changed else lows[name])
    assert sum(low < 0 for low in after.values()) == 2  # what padded convolutions read
    np.testing.assert_allclose(run(placed, IMAGES), before, rtol=1e-4, atol=1e-4)


def test_signed_grids_without_a_zero_point_stay() -> None:
    placed = _placed("performance")
    assert absorb_zero_points(placed) == []


@pytest.mark.parametrize("rule", ["minmax", "kl_cfws"])
def test_recipes_use_it_and_stay_close_to_float(rule: str) -> None:
    ranges = RangesConfig(backbone=rule, neck=rule, head=rule)  # type: ignore[arg-type]
    graph = _graph()
    result = quantize_graph(graph, Recipe(name="test", ranges=ranges), Source(IMAGES))
    assert sum(low < 0 for low in _lows(result.graph.model).values()) == 2
    assert relative_error(run(result.graph.model, IMAGES), run(graph.model, IMAGES)) < 0.1


def test_nncf_is_left_as_it_is() -> None:
    own = RangesConfig(backbone="placement", neck="placement", head="placement")
    recipe = Recipe(name="nncf", ranges=own, bias_correction="nncf")
    result = quantize_graph(_graph(), recipe, Source(IMAGES))
    assert sum(low < 0 for low in _lows(result.graph.model).values()) > 2
