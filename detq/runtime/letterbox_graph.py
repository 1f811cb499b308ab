"""The letterbox as operations of a graph: pixels of any size -> the network's input.

It computes what :class:`detq.data.letterbox.Preprocess` does with OpenCV: the same place in the
input to the pixel, and grey levels that differ by one at some pixels. Places are computed in
integers: a runtime that takes 16-bit floats for the rest does not move them, but it coarsens grey
levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.data.letterbox import FITS, FitRules
from detq.opencv import cv2
from detq.records import Fit, SizeHW

Value: TypeAlias = ov.Node | ov.Output
MOST_PX = 8192
"""Up to this side of an image its place in the input is exact."""
_CUBIC = -0.75
"""OpenCV's coefficient of the cubic interpolation."""
_PARTS = 2048
"""In which OpenCV counts the weights of the linear one."""


def number(value: float) -> ov.Node:
    """A float32 constant."""
    return ops.constant(np.float32(value))


def whole(value: int | list[int]) -> ov.Node:
    """An int32 constant."""
    return ops.constant(np.array(value, np.int32))


@dataclass(frozen=True)
class PlaceInGraph:
    """:class:`~detq.data.letterbox.Letterbox` as int32 scalars of a graph."""

    height: Value
    width: Value
    resized_height: Value
    resized_width: Value
    pad_top: Value
    pad_left: Value


def plan_in_graph(height: Value, width: Value, size_hw: SizeHW, fit: Fit) -> PlaceInGraph:
    """Sides of an image, int32 scalars -> its place in an input of ``size_hw``."""
    rules, (high, wide) = FITS[fit], size_hw
    if not rules.keeps_ratio:
        return PlaceInGraph(height, width, whole(high), whole(wide), whole(0), whole(0))
    is_high = ops.less_equal(  # high / height <= wide / width
        ops.multiply(width, whole(high)), ops.multiply(height, whole(wide))
    )
    divisor = ops.select(is_high, height, width)
    target = ops.select(is_high, whole(high), whole(wide))
    most = max(size_hw)
    loss = ops.select(is_high, _loss(high, height, most), _loss(wide, width, most))
    resized_height, resized_width = (
        _resized(ops.multiply(side, target), divisor, loss, rules, most) for side in (height, width)
    )
    if not rules.centred:
        return PlaceInGraph(height, width, resized_height, resized_width, whole(0), whole(0))
    pad_top, pad_left = (
        _quotient(ops.subtract(whole(side), resized), whole(2))[0]
        for side, resized in ((high, resized_height), (wide, resized_width))
    )
    return PlaceInGraph(height, width, resized_height, resized_width, pad_top, pad_left)


def placed_in_graph(pixels: Value, place: PlaceInGraph, size_hw: SizeHW, fit: Fit) -> ov.Node:
    """uint8 [1, h, w, 3] BGR -> float32 [1, 3, H, W] RGB, 0..1."""
    rules, (high, wide) = FITS[fit], size_hw
    planes = ops.transpose(pixels, whole([0, 3, 1, 2]))
    planes = ops.convert(ops.gather(planes, whole([2, 1, 0]), whole(1)), "f32")
    levels = _levels(planes, place, rules)
    bottom = ops.subtract(ops.subtract(whole(high), place.resized_height), place.pad_top)
    right = ops.subtract(ops.subtract(whole(wide), place.resized_width), place.pad_left)
    padded = ops.pad(
        levels,
        _pads(place.pad_top, place.pad_left),
        _pads(bottom, right),
        "constant",
        number(rules.padding),
    )
    return ops.divide(ops.reshape(padded, whole([1, 3, high, wide]), False), number(255))


def _pads(vertical: Value, horizontal: Value) -> ov.Node:
    """[4]: of batch and channels nothing."""
    own = [ops.unsqueeze(side, whole(0)) for side in (vertical, horizontal)]
    return ops.concat([whole([0, 0]), *own], 0)


def _resized(wanted: Value, divisor: Value, loss: Value, rules: FitRules, most: int) -> ov.Node:
    """``side * target`` and ``divisor`` -> ``rules.whole(side * (target / divisor))`` in float64.

    That differs from the exact quotient where it is a whole number (or a half one, for ``round``)
    and float64's ``target / divisor`` was rounded away from it by more than half a step: at 1 to 6
    in 100 sides. OpenVINO has no float64 on CPUs, so what is lost comes from a table.
    """
    below, rest = _quotient(wanted, divisor)
    steps = _looked_up(_half_steps(most, rules.whole is round), below)
    if rules.whole is int:
        slips = ops.logical_and(
            ops.equal(rest, whole(0)), ops.greater(ops.multiply(below, loss), steps)
        )
        return ops.maximum(ops.subtract(below, ops.convert(slips, "i32")), whole(1))
    twice = ops.multiply(rest, whole(2))
    lost = ops.multiply(ops.add(ops.multiply(below, whole(2)), whole(1)), loss)  # of 2 * value
    to_even = ops.logical_and(
        ops.equal(_quotient(below, whole(2))[1], whole(1)), ops.less_equal(lost, steps)
    )
    up = ops.logical_or(
        ops.greater(twice, divisor),
        ops.logical_and(
            ops.equal(twice, divisor), ops.logical_or(ops.less(lost, ops.negative(steps)), to_even)
        ),
    )
    return ops.maximum(ops.add(below, ops.convert(up, "i32")), whole(1))


def _quotient(dividend: Value, divisor: Value) -> tuple[ov.Node, ov.Node]:
    """int32 -> quotient, rounded down, and rest, which is not negative; both exact.

    OpenVINO may divide by multiplying with the reciprocal, which can miss by one.
    """
    guess = ops.divide(dividend, divisor)
    rest = ops.subtract(dividend, ops.multiply(guess, divisor))
    more = ops.convert(ops.greater_equal(rest, divisor), "i32")
    less = ops.convert(ops.less(rest, whole(0)), "i32")
    quotient = ops.subtract(ops.add(guess, more), less)
    return quotient, ops.subtract(dividend, ops.multiply(quotient, divisor))


def _loss(target: int, side: Value, most: int) -> ov.Node:
    """What float64 loses of ``target / side``, relative to it, in the units of :func:`_unit`."""
    return _looked_up(_losses(target, most), ops.minimum(side, whole(MOST_PX)))


def _looked_up(table: npt.NDArray[np.int32], index: Value) -> ov.Node:
    return ops.gather(ops.constant(table), index, whole(0))


def _unit(most: int) -> int:
    """So many parts of 2^-53 that twice a side of the input, times a loss, is an int32."""
    return int(2**29 // most)


@cache
def _losses(target: int, most: int) -> npt.NDArray[np.int32]:
    """[MOST_PX + 1]"""
    losses = [0]
    for side in range(1, MOST_PX + 1):
        numerator, denominator = (target / side).as_integer_ratio()
        exact = target * denominator - numerator * side  # of target * denominator
        losses.append(int(exact * 2**53 * _unit(most) / (target * denominator)))  # ties stay ties
    return np.array(losses, np.int32)


@cache
def _half_steps(most: int, to_nearest: bool) -> npt.NDArray[np.int32]:
    """[most + 1] half the distance from a value to the next smaller float64, in the same units.

    The value is its index; ``to_nearest``, half a pixel more, and the distance counts twice.
    """
    values = np.arange(most + 1) + (0.5 if to_nearest else 0)
    steps = (values - np.nextafter(values, 0)) * 2**52 * (2 if to_nearest else 1)
    return np.asarray(steps * _unit(most), np.int32)


# --- resizing -------------------------------------------------------------------------------------


def _levels(planes: Value, place: PlaceInGraph, rules: FitRules) -> ov.Node:
    """float32 [1, 3, h, w] -> [1, 3, resized height, resized width], whole levels of 0..255."""
    enlarged = _METHODS[rules.enlarging](planes, place)
    if rules.shrinking == rules.enlarging:
        return enlarged
    shrinks = ops.less(  # both sides do, or neither
        ops.add(place.resized_height, place.resized_width), ops.add(place.height, place.width)
    )
    return ops.select(shrinks, _METHODS[rules.shrinking](planes, place), enlarged)


def _linear(planes: Value, place: PlaceInGraph) -> ov.Node:
    """As OpenCV does it in integers: weights of 1/2048, and bits cut off behind each axis."""
    left, right, weight = _between(place.width, place.resized_width)
    first, second = ops.gather(planes, left, whole(3)), ops.gather(planes, right, whole(3))
    across = ops.add(
        ops.multiply(first, ops.subtract(number(_PARTS), weight)), ops.multiply(second, weight)
    )
    kept = ops.floor(ops.multiply(across, number(1 / 16)))
    above, below, weight = _between(place.height, place.resized_height)
    weight = ops.unsqueeze(ops.multiply(weight, number(1 / 2**16)), whole(1))
    rest = ops.subtract(number(_PARTS / 2**16), weight)
    quarters = ops.add(
        ops.floor(ops.multiply(ops.gather(kept, above, whole(2)), rest)),
        ops.floor(ops.multiply(ops.gather(kept, below, whole(2)), weight)),
    )
    return ops.floor(ops.multiply(ops.add(quarters, number(2)), number(0.25)))


def _between(side: Value, resized: Value) -> tuple[ov.Node, ov.Node, ov.Node]:
    """[resized]: the pixels before and behind the centre of each pixel that is made (int32, edges
    repeated), and the weight of the second, float32 of 0..2048.
    """
    before, rest, double = _centres(side, resized)
    nearest, remainder = _quotient(
        ops.add(ops.multiply(rest, whole(2 * _PARTS)), double), ops.multiply(double, whole(2))
    )
    is_tie = ops.equal(remainder, whole(0))
    is_odd = ops.equal(_quotient(nearest, whole(2))[1], whole(1))
    weight = ops.subtract(nearest, ops.convert(ops.logical_and(is_tie, is_odd), "i32"))
    pixels = (_inside(ops.add(before, whole(tap)), side) for tap in (0, 1))
    return *pixels, ops.convert(weight, "f32")


def _centres(side: Value, resized: Value) -> tuple[ov.Node, ov.Node, ov.Node]:
    """Pixel i lies at (i + 1/2) * side / resized - 1/2. [resized] each: the pixel before, what is
    left, as a part of the third.
    """
    double = ops.multiply(resized, whole(2))
    pixels = ops.range(whole(0), resized, whole(1), "i32")
    odd = ops.add(ops.multiply(pixels, whole(2)), whole(1))
    before, rest = _quotient(ops.subtract(ops.multiply(odd, side), resized), double)
    return before, rest, double


def _inside(pixel: Value, side: Value) -> ov.Node:
    return ops.minimum(ops.maximum(pixel, whole(0)), ops.subtract(side, whole(1)))


def _area(planes: Value, place: PlaceInGraph) -> ov.Node:
    return _multiplied(planes, place, _area_shares)


def _cubic(planes: Value, place: PlaceInGraph) -> ov.Node:
    return _multiplied(planes, place, _cubic_shares)


def _multiplied(
    planes: Value, place: PlaceInGraph, shares: Callable[[Value, Value, ov.Node], ov.Node]
) -> ov.Node:
    """Resized by two products of matrices: [resized, side], the share of each pixel of one axis in
    each that it becomes.
    """
    rows, columns = (
        shares(side, resized, ops.unsqueeze(ops.range(whole(0), side, whole(1), "i32"), whole(0)))
        for side, resized in (
            (place.height, place.resized_height),
            (place.width, place.resized_width),
        )
    )
    resized = ops.matmul(ops.matmul(rows, planes, False, False), columns, False, True)
    return ops.clamp(ops.round(resized, "half_away_from_zero"), 0, 255)


def _area_shares(side: Value, resized: Value, of: ov.Node) -> ov.Node:
    """Lengths are counted in 1 / resized pixels."""
    to = ops.unsqueeze(ops.range(whole(0), resized, whole(1), "i32"), whole(1))
    begins = ops.maximum(ops.multiply(to, side), ops.multiply(of, resized))
    ends = ops.minimum(
        ops.multiply(ops.add(to, whole(1)), side), ops.multiply(ops.add(of, whole(1)), resized)
    )
    covered = ops.convert(ops.maximum(ops.subtract(ends, begins), whole(0)), "f32")
    return ops.divide(covered, ops.convert(side, "f32"))


def _cubic_shares(side: Value, resized: Value, of: ov.Node) -> ov.Node:
    before, rest, double = (
        ops.unsqueeze(value, whole(1)) if index < 2 else value
        for index, value in enumerate(_centres(side, resized))
    )
    beyond = ops.divide(ops.convert(rest, "f32"), ops.convert(double, "f32"))
    shares = number(0)
    for tap in (-1, 0, 1, 2):
        pixel = _inside(ops.add(before, whole(tap)), side)  # edges are repeated
        share = _kernel(ops.abs(ops.subtract(beyond, number(tap))), is_near=tap in (0, 1))
        shares = ops.add(shares, ops.select(ops.equal(pixel, of), share, number(0)))
    return shares


def _kernel(distance: Value, *, is_near: bool) -> ov.Node:
    """Keys' cubic kernel: up to one pixel away, or one to two."""
    near = (_CUBIC + 2, -(_CUBIC + 3), 0.0, 1.0)
    far = (_CUBIC, -5 * _CUBIC, 8 * _CUBIC, -4 * _CUBIC)
    highest, *others = near if is_near else far
    value: ov.Node = number(highest)
    for coefficient in others:
        value = ops.add(ops.multiply(value, distance), number(coefficient))
    return value


_METHODS: Mapping[int, Callable[[Value, PlaceInGraph], ov.Node]] = {
    cv2.INTER_LINEAR: _linear,
    cv2.INTER_AREA: _area,
    cv2.INTER_CUBIC: _cubic,
}
