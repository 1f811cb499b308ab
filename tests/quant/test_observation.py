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
from small_graphs import images, pyramid, repvgg_like

from detq.config import Recipe
from detq.graph.digest import digest
from detq.numerics.histogram import ActivationStatistics, pack, unpack
from detq.quant.calibration import activation_quantizers
from detq.quant.equalization import equalize
from detq.quant.observation import CHANNEL_SAMPLE, SAMPLE, observe
from detq.quant.observation_store import MOST_FILES, ObservationStore
from detq.quant.placement import place_quantizers

IMAGES = images(4)
RECIPE = Recipe(name="test")


@pytest.fixture(scope="module")
def placed() -> ov.Model:
    return place_quantizers(pyramid(), RECIPE, IMAGES[:1])


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


def test_statistics_survive_packing(placed: ov.Model) -> None:
    for channels in observe(placed, activation_quantizers(placed), IMAGES, bins=256).values():
        assert_same({"a": channels}, {"a": unpack(pack(channels))})


def test_a_second_observation_reads_no_image(placed: ov.Model, store: ObservationStore) -> None:
    quantizers = activation_quantizers(placed)
    first = observe(placed, quantizers, IMAGES, bins=256, store=store)
    assert_same(first, observe(placed, quantizers, unread(), bins=256, store=store))


def test_what_is_missing_is_observed_and_joins_the_rest(
    placed: ov.Model, store: ObservationStore
) -> None:
    quantizers = activation_quantizers(placed)
    groups = {quantizer.group for quantizer in quantizers[::2]}
    some = [quantizer for quantizer in quantizers if quantizer.group in groups]
    assert 0 < len(some) < len(quantizers)
    half = observe(placed, some, IMAGES, bins=256, store=store)
    whole = observe(placed, quantizers, IMAGES, bins=256, store=store)
    assert_same(half, {name: whole[name] for name in half})
    assert set(whole) == {quantizer.name for quantizer in quantizers}
    assert_same(whole, observe(placed, quantizers, unread(), bins=256, store=store))


@pytest.mark.parametrize("change", ["images", "bins", "network"])
def test_nothing_kept_serves_another_case(
    placed: ov.Model, store: ObservationStore, change: str
) -> None:
    observe(placed, activation_quantizers(placed), IMAGES, bins=256, store=store)
    other = repvgg_like() if change == "network" else None
    model = placed if other is None else place_quantizers(other, RECIPE, IMAGES[:1])
    with pytest.raises(AssertionError, match="an image was read"):
        observe(
            model,
            activation_quantizers(model),
            unread(),
            bins=512 if change == "bins" else 256,
            store=ObservationStore(store.folder, "others") if change == "images" else store,
        )


def test_equalization_reads_no_image_twice(store: ObservationStore) -> None:
    first, _ = equalize(pyramid(), IMAGES, store)
    second, _ = equalize(pyramid(), unread(), store)
    assert digest(first.model) == digest(second.model)


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
    found = observe(model, activation_quantizers(model), [values], bins=256)
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
    (found,) = observe(model, quantizers, [values], bins=256).values()
    assert len(found) == channels
    for seen, channel in zip(found, -values[0], strict=True):
        assert (seen.low, seen.high) == (channel.min(), channel.max())
        assert CHANNEL_SAMPLE / 2 < seen.magnitude.sum() + seen.zeros <= CHANNEL_SAMPLE
