"""FakeQuantize and INT8 weights -> QuantizeLinear and DequantizeLinear: the same grids exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.errors import GraphError
from detq.graph.surgery import producer
from detq.onnx_export.onnx_writer import OnnxWriter, constant_data

Floats = npt.NDArray[np.float32]

LEVELS = 256
OFF_GRID = 1e-2
"""Zero may lie so many steps beside a grid point: float32 ends of a range are that exact."""


@dataclass(frozen=True)
class ActivationGrid:
    """uint8 grid of a tensor: scalars, or one entry per channel of ``axis``."""

    scale: Floats
    zero_point: npt.NDArray[np.uint8]
    axis: int | None


@dataclass(frozen=True)
class StoredWeight:
    """Integers as they are stored and what one step of each is worth, of equal rank."""

    integers: npt.NDArray[np.int8]
    scale: Floats


def activation_grid(node: ov.Node) -> ActivationGrid:
    """The grid of an activation FakeQuantize.

    Raises GraphError if it is not one of 256 levels on which zero lies: QuantizeLinear has no
    other.
    """
    name = node.get_friendly_name()
    ends = [_constant_input(node, index) for index in range(1, 5)]
    low, high = ends[0].astype(np.float64), ends[1].astype(np.float64)
    levels = int(node.get_attributes()["levels"])
    if levels != LEVELS or not (
        np.array_equal(ends[0], ends[2]) and np.array_equal(ends[1], ends[3])
    ):
        raise GraphError(f"{name}: expected one range of {LEVELS} levels, found {levels}")
    scale = (high - low) / (LEVELS - 1)
    if not (scale > 0).all():
        raise GraphError(f"{name}: an empty range cannot be written as a scale")
    exact = -low / scale
    zero_point = np.rint(exact)
    if (np.abs(exact - zero_point) > OFF_GRID).any() or zero_point.min() < 0 or low.max() > 0:
        raise GraphError(f"{name}: zero is not on its grid; QuantizeLinear needs a zero point")
    axis = _channel_axis(low.shape, len(node.get_output_shape(0)), name)
    shape = () if axis is None else (-1,)
    return ActivationGrid(
        scale.astype(np.float32).reshape(shape), zero_point.astype(np.uint8).reshape(shape), axis
    )


def write_fake_quantize(writer: OnnxWriter, node: ov.Node) -> None:
    """FakeQuantize -> QuantizeLinear and DequantizeLinear."""
    grid, name = activation_grid(node), node.get_friendly_name()
    axis = {} if grid.axis is None else {"axis": grid.axis}
    scale = writer.constant(grid.scale, f"{name}/scale")
    zero_point = writer.constant(grid.zero_point, f"{name}/zero_point")
    (integers,) = writer.emit(
        "QuantizeLinear",
        [writer.value(node.input_value(0)), scale, zero_point],
        f"{name}/quantized",
        **axis,
    )
    writer.write(node, "DequantizeLinear", [integers, scale, zero_point], **axis)


def stored_weight(node: ov.Node) -> StoredWeight | None:
    """Multiply(Convert(int8 Constant), scale) as it was stored; None for anything else."""
    if node.get_type_name() == "Reshape" and (inner := stored_weight(producer(node))):
        shape = tuple(node.get_output_shape(0))
        spread = np.broadcast_to(inner.scale, inner.integers.shape).reshape(shape)
        return StoredWeight(inner.integers.reshape(shape), np.ascontiguousarray(spread))
    if node.get_type_name() != "Multiply" or producer(node).get_type_name() != "Convert":
        return None
    stored, scale = producer(producer(node)), producer(node, 1)
    if stored.get_type_name() != "Constant" or scale.get_type_name() != "Constant":
        return None
    integers = constant_data(stored)
    if integers.dtype != np.int8:
        return None
    return StoredWeight(integers, constant_data(scale).astype(np.float32))


def write_weight(
    writer: OnnxWriter, weight: StoredWeight, shape: tuple[int, ...], axis: int, name: str
) -> tuple[str, Floats]:
    """int8 initializer and DequantizeLinear over ``axis`` of the kernel in ``shape``.

    Returns the value's name and the scale of each channel of that axis. Raises GraphError if the
    scale varies along another axis too.
    """
    spread = np.broadcast_to(weight.scale, weight.integers.shape).reshape(shape)
    channels = np.moveaxis(spread, axis, 0).reshape(shape[axis], -1)
    scale = np.ascontiguousarray(channels[:, 0])
    if not (channels == scale[:, None]).all():
        raise GraphError(f"{name}: its weights have a scale for more than their output channels")
    inputs = [
        writer.constant(weight.integers.reshape(shape), f"{name}.weight_int8"),
        writer.constant(scale, f"{name}.weight_scale"),
        writer.constant(np.zeros(shape[axis], np.int8), f"{name}.weight_zero_point"),
    ]
    (value,) = writer.emit("DequantizeLinear", inputs, f"{name}.weight", axis=axis)
    return value, scale


def write_bias(writer: OnnxWriter, bias: Floats, scale: Floats, name: str) -> str:
    """A bias on the grid of the accumulator: int32 of step ``scale`` per channel.

    Runtimes add it before they leave the integers. It is off by half a step at most, some
    hundred times finer than any activation's. One that is too large for 32 bits stays float.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        integers = np.rint(bias.astype(np.float64) / scale)
    if not (np.abs(integers) <= np.iinfo(np.int32).max).all():
        return writer.constant(bias.astype(np.float32), f"{name}.bias")
    inputs = [
        writer.constant(integers.astype(np.int32), f"{name}.bias_int32"),
        writer.constant(scale.astype(np.float32), f"{name}.bias_scale"),
    ]
    (value,) = writer.emit("DequantizeLinear", inputs, f"{name}.bias", axis=0)
    return value


def _constant_input(node: ov.Node, index: int) -> Floats:
    constant = producer(node, index)
    if constant.get_type_name() != "Constant":
        raise GraphError(f"{node.get_friendly_name()}: its range is not constant")
    return constant_data(constant).astype(np.float32)


def _channel_axis(shape: tuple[int, ...], rank: int, name: str) -> int | None:
    """The axis of a tensor of that rank along which ``shape``, broadcast to it, varies."""
    wide = [rank - len(shape) + axis for axis, size in enumerate(shape) if size > 1]
    if len(wide) > 1:
        raise GraphError(f"{name}: has ranges for more than channels ({list(shape)})")
    return wide[0] if wide else None
