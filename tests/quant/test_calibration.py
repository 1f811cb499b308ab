from __future__ import annotations

from dataclasses import replace

import numpy as np
import openvino as ov
import pytest
from small_graphs import fingerprint, images, limits, pyramid, repvgg_like, run

from detq.config import RangesConfig, Recipe
from detq.errors import CalibrationError
from detq.graph.surgery import find_node, nodes_of_type, producer, producers, with_outputs
from detq.numerics.ranges import Range
from detq.quant.calibration import (
    ActivationQuantizer,
    activation_quantizers,
    choose_ranges,
    write_ranges,
)
from detq.quant.observation import observe
from detq.quant.placement import place_quantizers

MINMAX = RangesConfig(backbone="minmax", neck="minmax", head="minmax")
RECIPE = Recipe(name="test", ranges=MINMAX)
IMAGES = images(4)


@pytest.fixture(scope="module")
def placed() -> ov.Model:
    """The pyramid with its quantizers; tests that change it work on a copy."""
    return place_quantizers(pyramid(), RECIPE, IMAGES[:1])


def _above_concat(model: ov.Model) -> list[str]:
    """Names of the quantizers that meet in the pyramid's Concat, looking through its MaxPools."""
    return [_quantizer_above(node) for node in producers(nodes_of_type(model, "Concat")[0])]


def _quantizer_above(node: ov.Node) -> str:
    if node.get_type_name() == "MaxPool":
        return _quantizer_above(producer(node))
    assert node.get_type_name() == "FakeQuantize"
    return node.get_friendly_name()


def _reader(model: ov.Model, convolution: str) -> str:
    """Name of the quantizer that a convolution reads its activations from."""
    node = producer(find_node(model, convolution))
    assert node.get_type_name() == "FakeQuantize"
    return node.get_friendly_name()


def _observed_tensor(placed: ov.Model, name: str) -> np.ndarray:
    """What quantizer ``name`` reads in the float network, found by shape and values alone."""
    twin = placed.clone()
    source = find_node(twin, name).input_value(0)
    for node in nodes_of_type(twin, "FakeQuantize"):
        node.output(0).replace(node.input_value(0))
    return run(with_outputs(twin, [source]), IMAGES)


def test_quantizers_that_meet_in_one_concat_share_a_range(placed: ov.Model) -> None:
    """Also where MaxPools lie between: their written constants are equal, the widest of all."""
    model = placed.clone()
    meeting = _above_concat(model)
    assert len(set(meeting)) >= 2
    quantizers = activation_quantizers(model)
    assert len({q.group for q in quantizers if q.name in meeting}) == 1
    statistics = observe(model, quantizers, IMAGES, bins=512)
    peaks = [_observed_tensor(model, name).max() for name in set(meeting)]
    assert max(peaks) > 1.2 * min(peaks)
    write_ranges(model, choose_ranges(quantizers, statistics, MINMAX, symmetric=False))
    written = limits(model)
    for name in meeting:
        for own, first in zip(written[name], written[meeting[0]], strict=True):
            np.testing.assert_array_equal(own, first)
    assert written[meeting[0]][1].item() == pytest.approx(max(peaks), rel=1e-6)


def test_quantizers_that_do_not_meet_keep_their_own(placed: ov.Model) -> None:
    quantizers = {quantizer.name: quantizer for quantizer in activation_quantizers(placed)}
    meeting = set(_above_concat(placed))
    others = [q for name, q in quantizers.items() if name not in meeting]
    assert others
    assert all(quantizer.group == quantizer.name for quantizer in others)


def test_depthwise_input_keeps_its_range_per_channel(placed: ov.Model) -> None:
    model = placed.clone()
    name = _reader(model, "neck.depthwise")
    quantizers = activation_quantizers(model)
    (quantizer,) = (quantizer for quantizer in quantizers if quantizer.name == name)
    assert quantizer.channel_axis == 1
    statistics = observe(model, quantizers, IMAGES, bins=512)
    assert len(statistics[name]) == 16
    shape_before = limits(model)[name][0].shape
    write_ranges(model, choose_ranges(quantizers, statistics, MINMAX, symmetric=False))
    low, high, *_ = limits(model)[name]
    assert low.shape == high.shape == shape_before
    values = _observed_tensor(model, name)
    step = (high - low).ravel() / 255
    seen_low, seen_high = values.min(axis=(0, 2, 3)), values.max(axis=(0, 2, 3))
    assert (np.abs(high.ravel() - np.maximum(seen_high, 0)) <= 1.01 * step).all()
    assert (np.abs(low.ravel() - np.minimum(seen_low, 0)) <= 1.01 * step).all()


@pytest.mark.parametrize("build", [pyramid, repvgg_like])
def test_observation_equals_numpy_on_the_float_graph(build: object) -> None:
    model = place_quantizers(build(), RECIPE, IMAGES[:1])  # type: ignore[operator]
    quantizers = [replace(q, group=q.name) for q in activation_quantizers(model)]
    statistics = observe(model, quantizers, IMAGES, bins=512)
    assert set(statistics) == {quantizer.name for quantizer in quantizers}
    for quantizer in quantizers:
        values = _observed_tensor(model, quantizer.name)
        axis = quantizer.channel_axis
        channels = [values] if axis is None else np.split(values, values.shape[axis], axis)
        for observed, channel in zip(statistics[quantizer.name], channels, strict=True):
            assert observed.images == len(IMAGES)
            assert observed.low == pytest.approx(channel.min(), rel=1e-5)
            assert observed.high == pytest.approx(channel.max(), rel=1e-5)
            assert observed.zeros == pytest.approx(np.count_nonzero(channel == 0), abs=2)
            assert observed.magnitude.sum() + observed.zeros == channel.size
            means = (channel.min(axis=(1, 2, 3)).mean(), channel.max(axis=(1, 2, 3)).mean())
            assert (observed.mean_low, observed.mean_high) == pytest.approx(means, rel=1e-5)


def test_every_image_counts_once_whatever_the_threads(placed: ov.Model) -> None:
    quantizers = activation_quantizers(placed)
    runs = [observe(placed, quantizers, IMAGES, bins=256) for _ in range(2)]
    for name, first in runs[0].items():
        for one, other in zip(first, runs[1][name], strict=True):
            np.testing.assert_array_equal(one.magnitude, other.magnitude)


def test_observation_and_choice_leave_the_placed_graph_untouched(placed: ov.Model) -> None:
    before = fingerprint(placed)
    quantizers = activation_quantizers(placed)
    statistics = observe(placed, quantizers, iter(IMAGES), bins=256)
    choose_ranges(quantizers, statistics, MINMAX, symmetric=False)
    assert fingerprint(placed) == before


def test_no_image_is_an_error(placed: ov.Model) -> None:
    with pytest.raises(CalibrationError, match="saw no data"):
        observe(placed, activation_quantizers(placed), [], bins=256)


def test_undefined_activation_is_an_error(placed: ov.Model) -> None:
    broken = np.full_like(IMAGES[0], np.nan)
    with pytest.raises(CalibrationError, match="infinite or undefined"):
        observe(placed, activation_quantizers(placed), [broken], bins=256)


def test_part_is_that_of_the_nearest_convolution_above(placed: ov.Model) -> None:
    parts = {quantizer.name: quantizer.part for quantizer in activation_quantizers(placed)}
    assert parts[_reader(placed, "backbone.stem")] == "backbone"  # the image itself
    assert parts[_reader(placed, "backbone.inner")] == "backbone"
    assert parts[_reader(placed, "neck.depthwise")] == "neck"
    assert parts[_reader(placed, "detect.pred")] == "neck"


def test_a_part_that_keeps_its_placement_is_left_alone(placed: ov.Model) -> None:
    model = placed.clone()
    config = RangesConfig(backbone="minmax", neck="placement", head="minmax")
    quantizers = activation_quantizers(model)
    ranges = choose_ranges(
        quantizers, observe(model, quantizers, IMAGES, bins=256), config, symmetric=False
    )
    expected = {quantizer.name for quantizer in quantizers if quantizer.part != "neck"}
    assert set(ranges) == expected
    before = limits(model)
    write_ranges(model, ranges)
    after = limits(model)
    for name in set(before) - expected:
        for old, new in zip(before[name], after[name], strict=True):
            np.testing.assert_array_equal(old, new)


def test_written_ranges_are_the_quantizers_constants(placed: ov.Model) -> None:
    model = placed.clone()
    (first, *_) = (q for q in activation_quantizers(model) if q.channel_axis is None)
    write_ranges(model, {first.name: [Range(-0.5, 1.5)]})
    assert [value.item() for value in limits(model)[first.name]] == [-0.5, 1.5, -0.5, 1.5]


def test_value_is_frozen() -> None:
    with pytest.raises(AttributeError):
        ActivationQuantizer("a", "neck", None, "a").name = "b"  # type: ignore[misc]
