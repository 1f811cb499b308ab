"""The letterbox as a graph against the one of OpenCV and numpy."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openvino import opset15 as ops

from detq.data.letterbox import FITS, Preprocess
from detq.graph.execute import compile_exact
from detq.records import Fit, SizeHW
from detq.runtime.letterbox_graph import placed_in_graph, plan_in_graph, whole

SIDES = st.integers(1, 4000)


@cache
def _plan(fit: Fit, size_hw: SizeHW) -> ov.CompiledModel:
    sides = ops.parameter([2], np.int32)
    height, width = (ops.gather(sides, whole(axis), whole(0)) for axis in (0, 1))
    place = plan_in_graph(height, width, size_hw, fit)
    values = (place.resized_height, place.resized_width, place.pad_top, place.pad_left)
    results = [ops.result(ops.add(value, whole(0))) for value in values]
    return compile_exact(ov.Model(results, [sides], "plan"))


@cache
def _letterbox(fit: Fit, size_hw: SizeHW) -> ov.CompiledModel:
    pixels = ops.parameter(ov.PartialShape([1, -1, -1, 3]), np.uint8)
    sides = ops.convert(ops.shape_of(pixels), "i32")
    height, width = (ops.gather(sides, whole(axis), whole(0)) for axis in (1, 2))
    place = plan_in_graph(height, width, size_hw, fit)
    placed = placed_in_graph(pixels, place, size_hw, fit)
    return compile_exact(ov.Model([ops.result(placed)], [pixels], "letterbox"))


@pytest.mark.parametrize("size_hw", [(320, 320), (640, 640), (416, 320)], ids=str)
@pytest.mark.parametrize("fit", FITS)
@given(sides=st.one_of(st.tuples(SIDES, SIDES), SIDES.map(lambda n: (n, n))), of_3_4=st.booleans())
def test_image_lies_where_float64_puts_it(
    fit: Fit, size_hw: SizeHW, sides: SizeHW, of_3_4: bool
) -> None:
    """Also where ``int(67 * (320 / 67))`` is 319; images of 3:4 have such sides often."""
    original_hw = (3 * (sides[0] % 1000 + 1), 4 * (sides[0] % 1000 + 1)) if of_3_4 else sides
    found = [int(value) for value in _plan(fit, size_hw)([np.int32(original_hw)]).values()]
    expected = Preprocess(size_hw, fit=fit).plan(original_hw)
    assert found == [*expected.resized_hw, expected.pad_top, expected.pad_left]


@pytest.mark.parametrize("original_hw", [(67, 67), (333, 517), (240, 320), (64, 96), (9, 700)])
@pytest.mark.parametrize("fit", FITS)
def test_grey_levels_differ_by_one_at_most(fit: Fit, original_hw: SizeHW) -> None:
    size_hw = (128, 96)
    noise = np.random.default_rng(0).integers(0, 256, (*original_hw, 3), np.uint8)
    image = cv2.GaussianBlur(noise, (5, 5), 0)
    found = np.asarray(_letterbox(fit, size_hw)([image[None]])[0]) * 255
    expected = Preprocess(size_hw, fit=fit).apply(image)[0] * 255
    off = np.abs(found - expected)
    assert off.max() < 1.01
    assert (off > 0.5).mean() < 0.02
