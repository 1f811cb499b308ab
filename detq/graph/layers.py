"""The two things that quantization speaks of, recognised in a graph: layers and grids.

A layer is a convolution with what belongs to it; a grid is what a FakeQuantize rounds to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.errors import GraphError
from detq.graph.surgery import (
    CONVOLUTIONS,
    constant_input,
    constant_value,
    consumers,
    nodes_by_name,
    nodes_of_type,
    producer,
    replace_constant_input,
)

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ConvLayer:
    """A convolution and the Add behind it that holds its bias, None if it has none.

    Nothing else reads what the convolution gives to that Add.
    """

    convolution: ov.Node
    bias: ov.Node | None

    @property
    def name(self) -> str:
        """The friendly name of the convolution."""
        return str(self.convolution.get_friendly_name())

    @property
    def end(self) -> ov.Node:
        """What gives the layer's output: the sum with the bias, or the convolution."""
        return self.bias or self.convolution

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width."""
        return tuple(list(self.convolution.get_input_shape(1))[-2:])

    @property
    def is_grouped(self) -> bool:
        """True for a GroupConvolution, whose weights have an axis for the groups."""
        return len(self.convolution.get_input_shape(1)) == 5

    @property
    def is_padded(self) -> bool:
        """True if its kernel reads zeros around the image."""
        attributes = self.convolution.get_attributes()
        return any((*attributes["pads_begin"], *attributes["pads_end"]))

    @property
    def is_convolution(self) -> bool:
        """False for a transposed one and for a MatMul."""
        return self.convolution.get_type_name() in CONVOLUTIONS

    @property
    def is_tiling(self) -> bool:
        """True for a transposed convolution whose kernels do not overlap where they are laid down.

        Every tap of every output channel is then a 1x1 kernel of its own.
        """
        attributes = self.convolution.get_attributes()
        return (
            self.convolution.get_type_name() == "ConvolutionBackpropData"
            and tuple(attributes["strides"]) == self.kernel
            and tuple(attributes["dilations"]) == (1, 1)
        )

    @property
    def absorbs_shift(self) -> bool:
        """True if a number added to all of its input is the same as another bias.

        That is a 1x1 kernel without padding or groups, with a bias for each channel.
        """
        index = None if self.bias is None else constant_input(self.bias)
        if self.bias is None or index is None or self.is_padded or self.kernel != (1, 1):
            return False
        channels = self.convolution.get_output_shape(0)[1]
        bias = constant_value(producer(self.bias, index))
        is_plain = self.convolution.get_type_name() == "Convolution"
        return is_plain and bias is not None and bias.size == channels

    @property
    def weight(self) -> Array:
        """Constant, in the convolution's own shape, before any rounding.

        Raises GraphError if it is computed.
        """
        found = constant_value(producer(self.convolution, 1))
        if found is None:
            raise GraphError(f"{self.name}: its weights are not constant; cannot quantize them")
        return found

    @property
    def grouped_weight(self) -> Array:
        """(G, O, I, kH, kW) float32, with one group if it has none."""
        weight = np.asarray(self.weight, np.float32)
        return weight if self.is_grouped else weight[None]

    @property
    def kernels(self) -> Array:
        """(G * O, I, kH, kW) float32: groups join the output channels; 1x1 of a MatMul.

        What meets in one sum is one row, also of operations that keep inputs before outputs.
        """
        weight = np.array(self.weight, np.float32)
        kind = self.convolution.get_type_name()
        if kind == "MatMul":
            is_row_by_row = weight.ndim == 1 or self.convolution.get_attributes()["transpose_b"]
            weight = (weight if is_row_by_row else weight.swapaxes(-2, -1))[..., None, None]
        elif kind.endswith("BackpropData"):
            weight = weight.swapaxes(-4, -3)
        return weight.reshape(-1, *weight.shape[-3:])

    @property
    def quantizer(self) -> ov.Node | None:
        """The FakeQuantize of its weights; None for a product of two activations."""
        above = producer(self.convolution, 1)
        if above.get_type_name() != "FakeQuantize" or constant_value(producer(above)) is None:
            return None
        return above

    @property
    def grid(self) -> Grid | None:
        """What its weights are rounded to; None if they are not, or if that is computed."""
        return None if self.quantizer is None else grid_of(self.quantizer)

    def add_to_bias(self, shift: npt.NDArray[np.floating]) -> None:
        """Add ``shift`` [1, O, 1, 1] to its bias; changes the model.

        Raises GraphError if it has none.
        """
        index = None if self.bias is None else constant_input(self.bias)
        if self.bias is None or index is None:
            raise GraphError(f"{self.name}: has no bias to change")
        bias = np.asarray(constant_value(producer(self.bias, index)))
        replace_constant_input(self.bias, index, (bias.reshape(1, -1, 1, 1) + shift).astype("f4"))


def layer_of(convolution: ov.Node) -> ConvLayer:
    """A weighted operation with what belongs to it."""
    users = consumers(convolution)
    alone = len(users) == 1 and users[0].get_type_name() == "Add"
    return ConvLayer(
        convolution, users[0] if alone and constant_input(users[0]) is not None else None
    )


def add_to_biases(model: ov.Model, shifts: Mapping[str, npt.NDArray[np.floating]]) -> None:
    """Add ``shifts`` [1, O, 1, 1] to the biases of the named layers; changes the model."""
    nodes = nodes_by_name(model)
    for name, shift in shifts.items():
        layer_of(nodes[name]).add_to_bias(shift)


def quantized_layers(model: ov.Model, *more_types: str) -> list[ConvLayer]:
    """The (Group)Convolutions, and operations of ``more_types``, with quantized weights."""
    return [
        layer
        for layer in map(layer_of, nodes_of_type(model, *CONVOLUTIONS, *more_types))
        if layer.quantizer is not None
    ]


@dataclass(frozen=True)
class Grid:
    """The values that a FakeQuantize rounds to: ``levels`` of them, even from low to high.

    ``low`` and ``high`` float32 have the shape that it gives them, one number or one per channel.
    """

    low: Array
    high: Array
    levels: int

    @property
    def step(self) -> Array:
        """Distance of two neighbouring values."""
        return np.asarray((self.high - self.low) / (self.levels - 1), self.low.dtype)

    @property
    def largest(self) -> int:
        """The largest integer of a grid around zero."""
        return self.levels // 2

    def nearest(self, values: Array) -> Array:
        """What the FakeQuantize makes of them."""
        places = np.rint((np.clip(values, self.low, self.high) - self.low) / self.step)
        return np.asarray(places * self.step + self.low, np.float32)


def grid_of(quantizer: ov.Node) -> Grid | None:
    """What a FakeQuantize rounds to; None if that is computed."""
    low, high = (constant_value(producer(quantizer, index)) for index in (1, 2))
    if low is None or high is None:
        return None
    return Grid(low.copy(), high.copy(), quantizer.get_attributes()["levels"])


def symmetric_grid(step: Array, levels: int) -> Grid:
    """255 levels around zero; of 256, the lowest is one more."""
    half = levels // 2
    return Grid(-half * step, (levels - 1 - half) * step, levels)


def write_grid(quantizer: ov.Node, grid: Grid) -> None:
    """Let a FakeQuantize round to a grid; changes the model."""
    for index, value in enumerate((grid.low, grid.high, grid.low, grid.high), start=1):
        replace_constant_input(quantizer, index, value)
