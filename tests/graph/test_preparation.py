"""What a file does to its pixels by itself is told by what becomes of colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops

from detq.graph.layouts import Pixels
from detq.graph.preparation import Preparation, preparation
from detq.graph.probing import stem_response

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _column(values: tuple[float, ...]) -> np.ndarray:
    return np.reshape(np.array(values, np.float32), (1, 3, 1, 1))


def _nothing(image: ov.Output) -> ov.Output:
    return image


def _divided(image: ov.Output) -> ov.Output:
    return ops.divide(image, np.float32(255)).output(0)


def _multiplied(image: ov.Output) -> ov.Output:
    return ops.multiply(image, np.float32(1 / 255)).output(0)


def _gathered(image: ov.Output) -> ov.Output:
    return ops.gather(image, np.array([2, 1, 0]), np.int64(1)).output(0)


def _split(image: ov.Output) -> ov.Output:
    return ops.concat(list(reversed(ops.split(image, 1, 3).outputs())), 1).output(0)


def _imagenet(image: ov.Output) -> ov.Output:
    return ops.divide(ops.subtract(_divided(image), _column(MEAN)), _column(STD)).output(0)


def _turned_imagenet_255(image: ov.Output) -> ov.Output:
    mean, std = (np.float32(255) * _column(each) for each in (MEAN, STD))
    return ops.divide(ops.subtract(_gathered(image), mean), std).output(0)


def _enlarged(image: ov.Output) -> ov.Output:
    return ops.multiply(image, np.float32(255)).output(0)


def _deviation(image: ov.Output) -> ov.Output:
    return ops.divide(ops.subtract(image, _column(MEAN)), _column(STD)).output(0)


def _model(prepare: Callable[[ov.Output], ov.Output], size: list[int]) -> ov.Model:
    image = ops.parameter(ov.PartialShape([1, 3, *size]), np.float32, name="images")
    prepared = prepare(image.output(0))
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    layer = ops.convolution(prepared, weight, [2, 2], [1, 1], [1, 1], [1, 1])
    return ov.Model([ops.result(layer)], [image], "prepared")


@pytest.mark.parametrize("size", [[64, 96], [-1, -1]], ids=["fixed", "free"])
@pytest.mark.parametrize(
    ("prepare", "turned", "left"),
    [
        (_nothing, False, Pixels()),
        (_divided, False, Pixels(largest=255.0)),
        (_multiplied, False, Pixels(largest=255.0)),
        (_gathered, True, Pixels(bgr=True)),
        (_split, True, Pixels(bgr=True)),
        (_imagenet, False, Pixels(largest=255.0)),
        (_turned_imagenet_255, True, Pixels(bgr=True, largest=255.0)),
        (_deviation, False, Pixels()),
        (_enlarged, False, Pixels()),
    ],
)
def test_colours_tell_what_is_left_to_do(
    prepare: Callable[[ov.Output], ov.Output], turned: bool, left: Pixels, size: list[int]
) -> None:
    found = preparation(_model(prepare, size))
    assert found.turned == turned
    assert found.left(Pixels()) == left


def test_normalization_inside_the_file_is_not_done_twice() -> None:
    wanted = Pixels(mean=MEAN, std=STD)
    assert preparation(_model(_nothing, [64, 64])).left(wanted) == wanted
    assert preparation(_model(_imagenet, [64, 64])).left(wanted) == Pixels(largest=255.0)


def test_order_of_mean_follows_the_order_that_goes_in() -> None:
    wanted = Pixels(mean=MEAN, std=STD)
    left = Preparation(turned=True).left(wanted)
    assert (left.bgr, left.mean, left.std) == (True, MEAN[::-1], STD[::-1])


@pytest.mark.parametrize("prepare", [_nothing, _divided, _imagenet, _deviation, _enlarged])
def test_the_first_layer_is_judged_behind_what_the_file_does(
    prepare: Callable[[ov.Output], ov.Output],
) -> None:
    """The same kernel answers alike, whatever scale the file wants of its input."""
    model = _model(prepare, [64, 64])
    answer = stem_response(model, preparation(model))
    plain = stem_response(_model(_nothing, [64, 64]), Preparation())
    assert answer is not None
    assert plain is not None
    assert 0.9 < answer / plain < 5  # a deviation of 0.225 enlarges
