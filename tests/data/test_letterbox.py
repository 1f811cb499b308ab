from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detq.data.letterbox import Preprocess, official_shrink
from detq.errors import DataError
from detq.records import Fit

sides = st.integers(1, 3000)
strided = st.integers(1, 40).map(lambda steps: 32 * steps)


@given(st.tuples(sides, sides), st.tuples(strided, strided), st.integers(0, 31))
def test_image_fits_into_the_input_with_even_padding(
    original_hw: tuple[int, int], size_hw: tuple[int, int], shrink: int
) -> None:
    box = Preprocess(size_hw, shrink).plan(original_hw)
    for side, resized, start in zip(
        size_hw, box.resized_hw, (box.pad_top, box.pad_left), strict=True
    ):
        end = side - resized - start
        assert 1 <= resized <= side - shrink
        assert 0 <= end - start <= 1  # the odd pixel goes behind
    # One side fills the input, but for a pixel of truncation.
    gaps = [side - shrink - resized for side, resized in zip(size_hw, box.resized_hw, strict=True)]
    assert min(gaps) <= 1


@given(st.tuples(sides, sides), st.tuples(strided, strided), st.data())
def test_boxes_come_back_where_they_were(
    original_hw: tuple[int, int], size_hw: tuple[int, int], data: st.DataObject
) -> None:
    height, width = original_hw
    box = Preprocess(size_hw).plan(original_hw)
    shares = data.draw(st.tuples(*[st.floats(0, 1)] * 4))
    original = np.array([shares], np.float32) * np.array([width, height] * 2, np.float32)
    gain = np.array([box.gain_x, box.gain_y] * 2)
    pad = np.array([box.pad_left, box.pad_top] * 2)
    there = (original * gain + pad).astype(np.float32)
    tolerance_px = 2e-4 * max(1, *(1 / gain))
    np.testing.assert_allclose(box.to_original(there), original, atol=tolerance_px, rtol=1e-5)


@pytest.mark.parametrize(
    ("fit", "resized_hw", "pads"),
    [("yolov6", (106, 320), (107, 0)), ("ultralytics", (107, 320), (106, 0))],
)
def test_sizes_are_truncated_or_rounded(
    fit: Fit, resized_hw: tuple[int, int], pads: tuple[int, int]
) -> None:
    box = Preprocess((320, 320), fit=fit).plan((200, 600))
    assert (box.resized_hw, (box.pad_top, box.pad_left)) == (resized_hw, pads)


def test_a_stretched_image_fills_the_input_and_its_boxes_come_back() -> None:
    image = np.zeros((20, 50, 3), np.uint8)
    pixels, box = Preprocess((64, 96), fit="stretch").place(image)
    assert pixels.shape == (1, 64, 96, 3)
    assert not pixels.any()
    whole = np.array([[0, 0, 96, 64]], np.float32)
    np.testing.assert_array_equal(box.to_original(whole), [[0, 0, 50, 20]])


def test_boxes_are_clamped_to_the_image() -> None:
    box = Preprocess((320, 320)).plan((480, 640))
    outside = np.array([[-50, -50, 900, 900]], np.float32)
    np.testing.assert_array_equal(box.to_original(outside), [[0, 0, 640, 480]])


@pytest.mark.parametrize(
    ("original_hw", "size_hw", "shrink", "resized_hw", "pads"),
    [
        ((480, 640), (640, 640), 0, (480, 640), (80, 0)),
        ((480, 640), (640, 640), 6, (475, 634), (82, 3)),
        ((427, 640), (320, 320), 0, (213, 320), (53, 0)),
        ((100, 50), (640, 640), 4, (636, 318), (2, 161)),
        ((480, 640), (384, 640), 0, (384, 512), (0, 64)),
    ],
)
def test_plan_of_known_images(
    original_hw: tuple[int, int],
    size_hw: tuple[int, int],
    shrink: int,
    resized_hw: tuple[int, int],
    pads: tuple[int, int],
) -> None:
    box = Preprocess(size_hw, shrink).plan(original_hw)
    assert box.resized_hw == resized_hw
    assert (box.pad_top, box.pad_left) == pads


def test_input_is_rgb_planes_of_0_to_1_on_grey() -> None:
    blue_green_red = np.broadcast_to(np.array([10, 20, 30], np.uint8), (32, 64, 3))
    network_input, box = Preprocess((64, 64)).apply(blue_green_red)
    assert network_input.shape == (1, 3, 64, 64)
    assert network_input.dtype == np.float32
    inside = network_input[0, :, box.pad_top : box.pad_top + 32]
    for channel, value in enumerate((30, 20, 10)):
        assert (inside[channel] == np.float32(value) / np.float32(255)).all()
    assert (network_input[0, :, : box.pad_top] == np.float32(114) / np.float32(255)).all()


def test_image_of_the_inputs_size_is_not_resampled() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    network_input, _ = Preprocess((64, 64)).apply(image)
    back = np.rint(network_input[0].transpose(1, 2, 0)[..., ::-1] * 255)
    np.testing.assert_array_equal(back, image)


@pytest.mark.parametrize(
    ("name", "size", "shrink"),
    [
        ("yolov6n", 640, 4),
        ("yolov6s", 640, 6),
        ("yolov6l_relu", 640, 2),
        ("yolov6m_mbla", 640, 7),
        ("yolov6m6", 1280, 64),
        ("yolov6n", 320, 0),
        ("yolov6m6", 640, 0),
        ("bccd_yolov6n", 640, 0),
    ],
)
def test_shrink_belongs_to_official_models_at_their_size(name: str, size: int, shrink: int) -> None:
    assert official_shrink(name, (size, size)) == shrink


@pytest.mark.parametrize("shrink", [-1, 64])
def test_impossible_shrink_is_an_error(shrink: int) -> None:
    with pytest.raises(DataError, match="shrink"):
        Preprocess((64, 128), shrink)


@pytest.mark.parametrize(
    ("fit", "resized_hw", "padding"),
    [
        ("yolov6", (32, 64), 114),
        ("ultralytics", (32, 64), 114),
        ("corner", (32, 64), 114),
        ("corner-black", (32, 64), 0),
        ("stretch", (64, 64), None),
        ("stretch-cubic", (64, 64), None),
    ],
)
def test_fit_puts_image_and_boxes_where_it_says(
    fit: Fit, resized_hw: tuple[int, int], padding: int | None
) -> None:
    image = np.full((64, 128, 3), 200, np.uint8)
    pixels, box = Preprocess((64, 64), fit=fit).place(image)
    assert box.resized_hw == resized_hw
    top = 16 if fit in ("yolov6", "ultralytics") else 0
    assert (box.pad_top, box.pad_left) == (top, 0)
    assert (pixels[0, top : top + resized_hw[0]] == 200).all()
    if padding is not None:
        assert (pixels[0, -1] == padding).all()
    whole = np.array([[0, top, 64, top + resized_hw[0]]], np.float32)
    np.testing.assert_allclose(box.to_original(whole), [[0, 0, 128, 64]])


@given(st.tuples(sides, sides), st.tuples(strided, strided), st.integers(0, 31), st.floats(0, 1.5))
def test_a_trimmed_input_holds_the_image_as_large_as_before(
    original_hw: tuple[int, int], size_hw: tuple[int, int], shrink: int, margin: float
) -> None:
    whole = Preprocess(size_hw, shrink)
    trimmed = whole.trimmed(original_hw, stride=32, margin=margin)
    before, after = whole.plan(original_hw), trimmed.plan(original_hw)
    assert after.resized_hw == before.resized_hw
    for side, resized in zip(trimmed.size_hw, after.resized_hw, strict=True):
        assert side % 32 == 0
        assert 0 <= side - resized < 32 * (1 + margin)
    assert min(after.pad_top, after.pad_left) >= 0


def test_a_stretched_image_takes_the_whole_input() -> None:
    preprocess = Preprocess((320, 320), fit="stretch")
    assert preprocess.trimmed((100, 300), stride=32) == preprocess


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 255),
    st.integers(0, 128),
    st.integers(0, 2**32 - 1),
)
def test_a_third_of_an_image_has_the_pixels_of_opencvs_areas(
    third_hw: tuple[int, int], middle: int, spread: int, seed: int
) -> None:
    height, width = third_hw
    noise = np.random.default_rng(seed).normal(middle, spread, (3 * height, 3 * width, 3))
    image = noise.clip(0, 255).astype(np.uint8)
    pixels, plan = Preprocess(third_hw).place(image)
    assert plan.resized_hw == third_hw
    expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(pixels[0], expected)
