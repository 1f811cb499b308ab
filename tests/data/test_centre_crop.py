from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detq.data.centre_crop import CentreCrop


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("original", "resized"),
    [((500, 375), (341, 256)), ((256, 256), (256, 256)), ((375, 500), (256, 341))],
)
def test_published_figures_rest_on_256_and_224(
    original: tuple[int, int], resized: tuple[int, int]
) -> None:
    """The longer side is cut off to whole pixels, as the published evaluation does it."""
    pixels, found = CentreCrop((224, 224)).place(_noise(*original))
    assert found == resized
    assert pixels.shape == (1, 224, 224, 3)


def test_an_image_of_the_networks_size_is_taken_as_it_is() -> None:
    image = _noise(32, 32)
    pixels, found = CentreCrop((32, 32)).place(image)
    assert found == (32, 32)
    np.testing.assert_array_equal(pixels[0], image)


def test_the_middle_is_cut_out() -> None:
    image = _noise(256, 300)
    pixels, _ = CentreCrop((224, 224)).place(image)
    np.testing.assert_array_equal(pixels[0], image[16:240, 38:262])


def test_apply_is_place_in_rgb_and_0_to_1() -> None:
    image = cv2.GaussianBlur(_noise(90, 70), (9, 9), 4)
    crop = CentreCrop((40, 48))
    pixels, _ = crop.place(image)
    values, _ = crop.apply(image)
    assert values.dtype == np.float32
    expected = pixels[0, :, :, ::-1].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(values[0], expected, atol=1e-6)


@given(st.integers(1, 600), st.integers(1, 600), st.integers(1, 80), st.integers(1, 80))
def test_any_image_becomes_an_input_of_the_right_size(
    height: int, width: int, rows: int, columns: int
) -> None:
    image = np.full((height, width, 3), 7, np.uint8)
    pixels, (resized_height, resized_width) = CentreCrop((rows, columns)).place(image)
    assert pixels.shape == (1, rows, columns, 3)
    assert resized_height >= rows
    assert resized_width >= columns
    assert (pixels == 7).all()
