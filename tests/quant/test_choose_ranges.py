from __future__ import annotations

from dataclasses import replace

import numpy as np
import openvino as ov
import pytest
from small_graphs import fingerprint, images, limits, pyramid, repvgg_like, run, through

from detq.config import RangesConfig
from detq.errors import CalibrationError
from detq.graph.surgery import find_node, nodes_of_type, producer, producers, with_outputs
from detq.numerics.integer_range import Range
from detq.quant.network import ActivationQuantizer, Network
from detq.quant.passes.choose_ranges import ChooseRanges
from detq.quant.passes.place_quantizers import PlaceQuantizers
from detq.quant.quantizers import activation_quantizers, write_ranges

MINMAX = RangesConfig(backbone="minmax", neck="minmax", head="minmax", bins=512)
IMAGES = images(4)


@pytest.fixture(scope="module")
def placed() -> Network:
    """The pyramid with its quantizers."""
    return through(pyramid(), PlaceQuantizers(), given=IMAGES)


def _chosen(placed: Network, rules: RangesConfig = MINMAX) -> Network:
    return through(placed, ChooseRanges(rules), given=IMAGES)


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


def test_quantizers_that_meet_in_one_concat_share_a_range(placed: Network) -> None:
    """Also where MaxPools lie between: their written constants are equal, the widest of all."""
    meeting = _above_concat(placed.model)
    assert len(set(meeting)) >= 2
    assert len({q.group for q in placed.quantizers if q.name in meeting}) == 1
    peaks = [_observed_tensor(placed.model, name).max() for name in set(meeting)]
    assert max(peaks) > 1.2 * min(peaks)
    written = limits(_chosen(placed).model)
    for name in meeting:
        for own, first in zip(written[name], written[meeting[0]], strict=True):
            np.testing.assert_array_equal(own, first)
    assert written[meeting[0]][1].item() == pytest.approx(max(peaks), rel=1e-6)


def test_quantizers_that_do_not_meet_keep_their_own(placed: Network) -> None:
    quantizers = {quantizer.name: quantizer for quantizer in placed.quantizers}
    meeting = set(_above_concat(placed.model))
    others = [q for name, q in quantizers.items() if name not in meeting]
    assert others
    assert all(quantizer.group == quantizer.name for quantizer in others)


def test_depthwise_input_keeps_its_range_per_channel(placed: Network) -> None:
    name = _reader(placed.model, "neck.depthwise")
    (quantizer,) = (quantizer for quantizer in placed.quantizers if quantizer.name == name)
    assert quantizer.channel_axis == 1
    chosen = _chosen(placed)
    assert len(chosen.observed[name]) == len(chosen.ranges[name]) == 16
    low, high, *_ = limits(chosen.model)[name]
    assert low.shape == high.shape == limits(placed.model)[name][0].shape
    values = _observed_tensor(placed.model, name)
    step = (high - low).ravel() / 255
    seen_low, seen_high = values.min(axis=(0, 2, 3)), values.max(axis=(0, 2, 3))
    assert (np.abs(high.ravel() - np.maximum(seen_high, 0)) <= 1.01 * step).all()
    assert (np.abs(low.ravel() - np.minimum(seen_low, 0)) <= 1.01 * step).all()


@pytest.mark.parametrize("build", [pyramid, repvgg_like])
def test_observation_equals_numpy_on_the_float_graph(build: object) -> None:
    placed = through(build(), PlaceQuantizers(), given=IMAGES)  # type: ignore[operator]
    alone = replace(placed, quantizers=tuple(replace(q, group=q.name) for q in placed.quantizers))
    statistics = _chosen(alone).observed
    assert set(statistics) == {quantizer.name for quantizer in alone.quantizers}
    for quantizer in alone.quantizers:
        values = _observed_tensor(placed.model, quantizer.name)
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


def test_every_image_counts_once_whatever_the_threads(placed: Network) -> None:
    runs = [_chosen(placed).observed for _ in range(2)]
    for name, first in runs[0].items():
        for one, other in zip(first, runs[1][name], strict=True):
            np.testing.assert_array_equal(one.magnitude, other.magnitude)


def test_the_network_given_is_left_untouched(placed: Network) -> None:
    before = fingerprint(placed.model)
    _chosen(placed)
    assert fingerprint(placed.model) == before
    assert not placed.ranges


def test_no_image_is_an_error(placed: Network) -> None:
    with pytest.raises(CalibrationError, match="observing saw no data"):
        through(placed, ChooseRanges(MINMAX), given=[])


def test_undefined_activation_is_an_error(placed: Network) -> None:
    broken = np.full_like(IMAGES[0], np.nan)
    with pytest.raises(CalibrationError, match="infinite or undefined"):
        through(placed, ChooseRanges(MINMAX), given=[broken])


def test_part_is_that_of_the_nearest_convolution_above(placed: Network) -> None:
    parts = {quantizer.name: quantizer.part for quantizer in placed.quantizers}
    assert parts[_reader(placed.model, "backbone.stem")] == "backbone"  # the image itself
    assert parts[_reader(placed.model, "backbone.inner")] == "backbone"
    assert parts[_reader(placed.model, "neck.depthwise")] == "neck"
    assert parts[_reader(placed.model, "detect.pred")] == "neck"


def test_a_part_that_keeps_its_placement_is_left_alone(placed: Network) -> None:
    config = RangesConfig(backbone="minmax", neck="placement", head="minmax", bins=256)
    chosen = _chosen(placed, config)
    expected = {quantizer.name for quantizer in placed.quantizers if quantizer.part != "neck"}
    assert set(chosen.ranges) == expected
    before, after = limits(placed.model), limits(chosen.model)
    for name in set(before) - expected:
        for old, new in zip(before[name], after[name], strict=True):
            np.testing.assert_array_equal(old, new)


def test_written_ranges_are_the_quantizers_constants(placed: Network) -> None:
    model = placed.model.clone()
    (first, *_) = (q for q in activation_quantizers(model) if q.channel_axis is None)
    write_ranges(model, {first.name: (Range(-0.5, 1.5),)})
    assert [value.item() for value in limits(model)[first.name]] == [-0.5, 1.5, -0.5, 1.5]


def test_value_is_frozen() -> None:
    with pytest.raises(AttributeError):
        ActivationQuantizer("a", "neck", None, "a").name = "b"  # type: ignore[misc]
