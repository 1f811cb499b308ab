"""What is kept of observations, and that a sample of pixels tells the same as all of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops
from small_graphs import Source, images, pyramid, repvgg_like, run, through

from detq.config import RangesConfig
from detq.errors import CalibrationError
from detq.graph.digest import digest
from detq.graph.layers import quantized_layers
from detq.graph.surgery import nodes_by_name, with_outputs
from detq.numerics.histogram import ActivationStatistics, pack, unpack
from detq.quant.channel_ranges import ChannelRanges
from detq.quant.hessians import Hessians, hessians
from detq.quant.histograms import (
    CHANNEL_SAMPLE,
    SAMPLE,
    Histogram,
    distinct,
    histograms,
    take_histograms,
)
from detq.quant.network import Network
from detq.quant.observation import Statistics
from detq.quant.observation_store import MOST_FILES, ObservationStore
from detq.quant.passes.choose_ranges import ChooseRanges
from detq.quant.passes.equalize_channels import EqualizeChannels
from detq.quant.passes.place_quantizers import PlaceQuantizers
from detq.quant.pipeline import run_passes
from detq.quant.quantizers import activation_quantizers

IMAGES = images(4)


@pytest.fixture(scope="module")
def placed() -> Network:
    return through(pyramid(), PlaceQuantizers(), given=IMAGES[:1])


def observe(
    model: ov.Model, given: object, *, bins: int = 256, store: ObservationStore | None = None
) -> dict[str, list[ActivationStatistics]]:
    """The histograms of all activation quantizers of a model."""
    wants = histograms(model, activation_quantizers(model), bins=bins)
    statistics = Statistics(model, lambda purpose, count: given, store)  # type: ignore[arg-type, return-value]
    statistics.want(distinct(wants))
    return take_histograms(statistics, wants)


@pytest.fixture
def store(tmp_path: Path) -> ObservationStore:
    return ObservationStore(tmp_path / "kept", "these images")


def unread() -> Iterator[np.ndarray]:
    """Images that nobody may ask for."""
    raise AssertionError("an image was read")
    yield


def assert_same(
    first: dict[str, list[ActivationStatistics]], second: dict[str, list[ActivationStatistics]]
) -> None:
    assert list(first) == list(second)
    for name, channels in first.items():
        for one, other in zip(channels, second[name], strict=True):
            assert vars(one).keys() == vars(other).keys()
            for field, value in vars(one).items():
                np.testing.assert_array_equal(value, vars(other)[field])


def test_statistics_survive_packing(placed: Network) -> None:
    for channels in observe(placed.model, IMAGES).values():
        assert_same({"a": channels}, {"a": unpack(pack(channels))})


def test_a_second_observation_reads_no_image(placed: Network, store: ObservationStore) -> None:
    first = observe(placed.model, IMAGES, store=store)
    assert_same(first, observe(placed.model, unread(), store=store))


def test_what_is_missing_is_observed_and_joins_the_rest(
    placed: Network, store: ObservationStore
) -> None:
    wants = dict.fromkeys(histograms(placed.model, placed.quantizers, bins=256).values())
    some = list(wants)[::2]
    assert 0 < len(some) < len(wants)
    statistics = Statistics(placed.model, lambda purpose, count: IMAGES, store)
    statistics.want(some)
    half = [statistics.take(want) for want in some]
    observe(placed.model, IMAGES, store=store)
    again = Statistics(placed.model, lambda purpose, count: unread(), store)
    again.want(wants)
    for want, before in zip(some, half, strict=True):
        assert_same({"a": before}, {"a": again.take(want)})
    assert len(observe(placed.model, unread(), store=store)) == len(placed.quantizers)


@pytest.mark.parametrize("change", ["images", "bins", "network"])
def test_nothing_kept_serves_another_case(
    placed: Network, store: ObservationStore, change: str
) -> None:
    observe(placed.model, IMAGES, store=store)
    other = through(repvgg_like(), PlaceQuantizers(), given=IMAGES[:1])
    with pytest.raises(AssertionError, match="an image was read"):
        observe(
            other.model if change == "network" else placed.model,
            unread(),
            bins=512 if change == "bins" else 256,
            store=ObservationStore(store.folder, "others") if change == "images" else store,
        )


def test_equalization_reads_no_image_twice(store: ObservationStore) -> None:
    start = Network.of(pyramid())
    passes = [EqualizeChannels()]
    first, _ = run_passes(start, passes, Source(IMAGES), store=store)
    second, _ = run_passes(start, passes, lambda purpose, count: unread(), store=store)
    assert digest(first.model) == digest(second.model)


# One run for all that is wanted


def test_wants_of_one_network_share_a_run(placed: Network) -> None:
    """Each sees as many images as it needs, and what it sees is what it would see alone."""
    source = Source(IMAGES)
    few = hessians(quantized_layers(placed.model), "rounding", 2)
    all_images = [*dict.fromkeys(histograms(placed.model, placed.quantizers, bins=256).values())]
    statistics = Statistics(placed.model, source)
    statistics.want([*few, *all_images])
    together = [statistics.take(want) for want in few], [statistics.take(w) for w in all_images]
    assert source.asked == [("rounding", None)]
    for want, found in zip(few, together[0], strict=True):
        alone = Statistics(placed.model, Source(IMAGES))
        alone.want([want])
        for one, other in zip(found, alone.take(want), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    expected = observe(placed.model, IMAGES)
    wants = histograms(placed.model, placed.quantizers, bins=256)
    found_by = dict(zip(all_images, together[1], strict=True))
    for name, channels in expected.items():
        for one, other in zip(channels, found_by[wants[name]], strict=True):
            assert (one.low, one.high, one.images) == pytest.approx(
                (other.low, other.high, other.images), rel=1e-5
            )


def test_what_does_not_fit_in_memory_together_takes_several_runs(
    placed: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detq.quant.observation.RUN_BYTES", 1)
    source = Source(IMAGES)
    wants = hessians(quantized_layers(placed.model), "rounding", 2)
    statistics = Statistics(placed.model, source)
    statistics.want(wants)
    assert len(wants) > 1
    for want in wants:
        statistics.take(want)
    assert source.asked == [("rounding", 2)] * len(wants)


def test_what_the_next_passes_want_is_seen_along() -> None:
    """Placing keeps the float network, so that a second choice of ranges reads no image."""
    rules = RangesConfig(backbone="minmax", neck="minmax", head="minmax")
    others = RangesConfig(backbone="mse", neck="mse", head="mse")
    source = Source(IMAGES)
    network, steps = run_passes(
        Network.of(pyramid()),
        [PlaceQuantizers(), ChooseRanges(rules), ChooseRanges(others)],
        source,
    )
    assert [step.name for step in steps] == ["place quantizers", "choose ranges", "choose ranges"]
    assert {quantizer.rule for quantizer in network.quantizers} == {"mse"}
    assert [purpose for purpose, _ in source.asked].count("observing") == 1


def test_no_image_is_an_error(placed: Network) -> None:
    with pytest.raises(CalibrationError, match="observing saw no data"):
        observe(placed.model, [])


@pytest.mark.parametrize(
    "want", [ChannelRanges("x"), Histogram((), None, 256), Hessians((), "", 1)]
)
def test_equal_wants_are_one(want: object) -> None:
    assert hash(want) == hash(type(want)(**vars(want)))  # type: ignore[arg-type]
    assert want == type(want)(**vars(want))


def test_channels_have_the_reach_of_all_images_and_the_mean_range_of_each() -> None:
    """One odd image among many would set a range alone, and no rule lets it."""
    model = pyramid().model
    name = "backbone.inner"
    want = ChannelRanges(name)
    given = [*IMAGES, 100 * IMAGES[0]]
    statistics = Statistics(model, lambda purpose, count: given)
    statistics.want([want])
    found = statistics.take(want)
    copy = model.clone()
    tensor = nodes_by_name(copy)[name].output(0)
    seen = run(with_outputs(copy, [tensor]), given).transpose(1, 0, 2, 3)
    seen = seen.reshape(len(seen), len(given), -1)
    lows, highs = np.minimum(seen.min(axis=2), 0), np.maximum(seen.max(axis=2), 0)
    np.testing.assert_allclose(found.low, lows.mean(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.high, highs.mean(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.power, np.square(seen).mean(axis=(1, 2)), rtol=1e-4)
    reach = highs.max(axis=1) - lows.min(axis=1)
    np.testing.assert_allclose(found.reach, reach, rtol=1e-4, atol=1e-5)
    assert (found.high - found.low).max() < 0.5 * found.reach.max()


# What is kept on disk


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY"])
def test_a_damaged_file_counts_as_missing(store: ObservationStore, content: bytes) -> None:
    store.write("a", {"x": np.arange(3.0)})
    (path,) = store.folder.glob("*")
    path.write_bytes(content)
    assert store.read("a") is None
    store.write("a", {"x": np.arange(4.0)})
    kept = store.read("a")
    assert kept is not None
    np.testing.assert_array_equal(kept["x"], np.arange(4.0))


def test_no_bit_of_a_kept_file_can_flip_unnoticed(store: ObservationStore) -> None:
    store.write("a", {"x": np.arange(3.0), "y": np.ones((2, 2))})
    (path,) = store.folder.iterdir()
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert store.read("a") is None
    path.write_bytes(whole)
    assert store.read("a") is not None


def test_a_file_under_the_name_of_another_counts_as_missing(store: ObservationStore) -> None:
    store.write("a", {"x": np.arange(3.0)})
    (first,) = store.folder.iterdir()
    store.write("b", {"x": np.arange(4.0)})
    (second,) = set(store.folder.iterdir()) - {first}
    shutil.copy(first, second)
    assert store.read("b") is None
    assert store.read("a") is not None


def test_flipped_bit_of_the_first_format(store: ObservationStore, shared: Path) -> None:
    store.write("a", {"x": np.arange(3.0)})
    (path,) = store.folder.iterdir()
    shutil.copy(shared / "cases/hostile/flipped_observation.npz", path)
    assert store.read("a") is None


@pytest.mark.parametrize("obstacle", ["folder", "fifo", "dead link", "large"])
def test_what_is_no_file_of_ours_is_replaced(store: ObservationStore, obstacle: str) -> None:
    store.write("a", {"x": np.arange(3.0)})
    (path,) = store.folder.iterdir()
    path.unlink()
    if obstacle == "folder":
        (path / "with something").mkdir(parents=True)
    elif obstacle == "fifo":
        os.mkfifo(path)
    elif obstacle == "dead link":
        path.symlink_to("nowhere")
    else:
        with path.open("wb") as file:
            file.truncate(10 << 30)  # takes no space
    assert store.read("a") is None
    store.write("a", {"x": np.arange(3.0)})
    assert store.read("a") is not None
    assert list(store.folder.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = ObservationStore(tmp_path / "file" / "folder", "images")
    store.write("a", {"x": np.arange(3.0)})
    assert store.read("a") is None


def test_the_oldest_files_go_and_no_part_stays(store: ObservationStore) -> None:
    for index in range(MOST_FILES + 3):
        store.write(str(index), {"x": np.array([float(index)])})
    assert len(list(store.folder.iterdir())) == MOST_FILES
    assert store.read("0") is None
    assert store.read(str(MOST_FILES + 2)) is not None


def _wide(axis_sizes: tuple[int, int, int]) -> ov.Model:
    """A ReLU and its shifted copy behind an image of that many channels, rows and columns."""
    image = ops.parameter([1, *axis_sizes], np.float32, name="images")
    rectified = ops.relu(image)
    shifted = ops.subtract(rectified, ops.constant(np.float32(0.5)))
    quantized = [
        ops.fake_quantize(tensor, *(ops.constant(np.float32(x)) for x in (0, 1, 0, 1)), 256)
        for tensor in (rectified, shifted)
    ]
    for name, node in zip(("relu", "shifted"), quantized, strict=True):
        node.set_friendly_name(name)
    return ov.Model([ops.result(node) for node in quantized], [image], "wide")


def test_a_sample_has_the_distribution_of_the_whole_and_its_exact_extremes() -> None:
    shape = (3, 500, 700)
    assert np.prod(shape) > 10 * SAMPLE
    values = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    values[0, 1, 250, 333], values[0, 2, 251, 334] = 9.0, -9.0  # no grid of pixels holds both
    model = _wide(shape)
    found = observe(model, [values])
    rectified, (shifted,) = np.maximum(values, 0), found["shifted"]
    (plain,) = found["relu"]
    assert (plain.low, plain.high) == (0.0, 9.0)
    assert (shifted.low, shifted.high) == (-0.5, 8.5)
    counted = plain.magnitude.sum() + plain.zeros
    assert 0.5 * SAMPLE < counted <= SAMPLE
    shares = np.cumsum(plain.magnitude) / plain.magnitude.sum()
    edges = (np.arange(len(shares)) + 1) * plain.bin_width
    positive = np.sort(rectified[rectified > 0])
    exact = np.searchsorted(positive, edges) / len(positive)
    assert np.abs(shares - exact).max() < 4 / np.sqrt(counted)


def test_each_channel_keeps_enough_values_of_its_own() -> None:
    channels = 40
    image = ops.parameter([1, channels, 200, 300], np.float32, name="images")
    low, high = np.zeros((1, channels, 1, 1)), np.ones((1, channels, 1, 1))
    limits = [ops.constant(each.astype(np.float32)) for each in (low, high, low, high)]
    node = ops.fake_quantize(ops.negative(image), *limits, 256)
    model = ov.Model([ops.result(node)], [image], "channels")
    quantizers = activation_quantizers(model)
    assert [quantizer.channel_axis for quantizer in quantizers] == [1]
    values = np.random.default_rng(0).normal(size=(1, channels, 200, 300)).astype(np.float32)
    (found,) = observe(model, [values]).values()
    assert len(found) == channels
    for seen, channel in zip(found, -values[0], strict=True):
        assert (seen.low, seen.high) == (channel.min(), channel.max())
        assert CHANNEL_SAMPLE / 2 < seen.magnitude.sum() + seen.zeros <= CHANNEL_SAMPLE
