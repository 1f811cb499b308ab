"""Rounding the weights of a placed graph with error feedback, on what its layers see.

The second moments of every convolution's input patches are gathered on the float activations of
some images, and :mod:`detq.numerics.gptq` finds the integers. Weights stay on the grids they have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import openvino as ov
from numpy.lib.stride_tricks import sliding_window_view

from detq.errors import CalibrationError, GraphError
from detq.graph.execute import compile_exact, outputs_of
from detq.graph.surgery import (
    constant_value,
    find_node,
    producer,
    replace_constant_input,
    with_outputs,
)
from detq.numerics.cfws import paired_channels
from detq.numerics.gptq import Indices, round_with_feedback
from detq.quant.calibration import float_twin
from detq.quant.overflow import quantized_weights

Image = npt.NDArray[np.float32]
Moments = npt.NDArray[np.float32]
Weight = npt.NDArray[np.floating]

PATCHES_PER_IMAGE = 128
"""Input patches drawn from each image; their moments are exact enough."""
BLOCK_INPUTS = 1152
"""At most so many inputs (channels times taps) share their errors out: cost grows as its cube."""
PASS_BYTES = 512 * 2**20
"""Moments held at a time; a network with more is observed in several passes over the images."""


@dataclass(frozen=True)
class Layer:
    """A convolution whose weights are to be rounded.

    Its kernels as ``blocks`` of (output channels, inputs) that read the same input channels.
    """

    name: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    dilations: tuple[int, int]
    outputs: int
    """Output channels of one group."""
    channels: tuple[slice, ...]
    """The input channels of each block, in order."""
    grouped: bool

    @property
    def inputs(self) -> list[int]:
        """Inputs of each block: channels times taps."""
        taps = self.kernel[0] * self.kernel[1]
        return [(part.stop - part.start) * taps for part in self.channels]

    @property
    def moment_bytes(self) -> int:
        """What the second moments of all blocks take."""
        return sum(4 * size * size for size in self.inputs)


def round_weights(
    placed: ov.Model,
    images: Callable[[], Iterable[Image]],
    *,
    exact: Collection[str] = (),
    bits: int = 8,
    limit_pairs: bool,
) -> dict[str, float]:
    """Round the quantized convolution weights with error feedback; changes the model.

    ``images`` gives float32 [1, 3, H, W], afresh for each of several passes; ``exact`` names
    convolutions whose weights lie on their grid already. Returns for each layer the squared error
    of its output relative to rounding to nearest, 1 where that was exact.
    """
    layers = [
        layer_of(convolution)
        for convolution, _ in quantized_weights(placed)
        if convolution.get_friendly_name() not in exact
    ]
    gains = {}
    for some in passes(layers):
        moments = observe_moments(placed, some, images())
        for layer in some:
            gains[layer.name] = _round_layer(
                placed, layer, moments.pop(layer.name), bits, limit_pairs
            )
    placed.validate_nodes_and_infer_types()
    return gains


def round_to_nearest(placed: ov.Model) -> None:
    """Write the values that the quantized convolution weights take on their grids into the model.

    Changes nothing that the model computes.
    """
    for convolution, quantizer in quantized_weights(placed):
        stored, step = _weight_and_step(convolution.get_friendly_name(), quantizer)
        largest = quantizer.get_attributes()["levels"] // 2
        nearest = np.clip(np.rint(stored / step), -largest, largest) * step
        replace_constant_input(quantizer, 0, nearest.astype(np.float32))


def layer_of(convolution: ov.Node) -> Layer:
    """How a (Group)Convolution is rounded: its kernels in blocks of inputs that belong together."""
    shape = list(producer(convolution, 1).get_output_shape(0))
    attributes = convolution.get_attributes()
    grouped = len(shape) == 5
    groups, outputs, per_group = shape[:3] if grouped else (1, shape[0], shape[1])
    width = per_group if grouped else max(1, BLOCK_INPUTS // (shape[-2] * shape[-1])) // 2 * 2
    channels = [
        slice(group * per_group + start, group * per_group + min(start + width, per_group))
        for group in range(groups)
        for start in range(0, per_group, width or 1)
    ]
    begin, end = attributes["pads_begin"], attributes["pads_end"]
    return Layer(
        name=convolution.get_friendly_name(),
        kernel=(shape[-2], shape[-1]),
        strides=tuple(attributes["strides"]),
        pads=((begin[0], end[0]), (begin[1], end[1])),
        dilations=tuple(attributes["dilations"]),
        outputs=outputs,
        channels=tuple(channels),
        grouped=grouped,
    )


def passes(layers: list[Layer]) -> Iterator[list[Layer]]:
    """The layers in runs whose moments fit in memory together."""
    run: list[Layer] = []
    for layer in layers:
        if run and sum(other.moment_bytes for other in [*run, layer]) > PASS_BYTES:
            yield run
            run = []
        run.append(layer)
    if run:
        yield run


def observe_moments(
    model: ov.Model, layers: list[Layer], images: Iterable[Image]
) -> dict[str, list[Moments]]:
    """For each layer the mean second moments of its blocks' inputs, (n, n) each.

    ``model`` may be placed or not: what is observed is float. ``images`` float32 [1, 3, H, W].
    """
    twin = float_twin(model)
    taps = [find_node(twin, layer.name).input_value(0) for layer in layers]
    compiled = compile_exact(with_outputs(twin, taps))
    random = np.random.default_rng(0)
    total = {
        layer.name: [np.zeros((size, size), np.float32) for size in layer.inputs]
        for layer in layers
    }
    count = 0
    for tensors in outputs_of(compiled, images):
        count += 1
        for index, layer in enumerate(layers):
            patches = _patches(tensors[index][0], layer, random)
            for block, part in enumerate(layer.channels):
                inputs = patches[:, part].reshape(len(patches), -1)
                total[layer.name][block] += inputs.T @ inputs / np.float32(len(patches))
    if count == 0:
        raise CalibrationError("rounding saw no data; give it at least one readable image")
    return {
        name: [moments / np.float32(count) for moments in blocks] for name, blocks in total.items()
    }


def _patches(
    tensor: npt.NDArray[np.float32], layer: Layer, random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """[C, H, W] -> (P, C, kH, kW): what the kernel covers at P random output pixels."""
    padded = np.pad(tensor, ((0, 0), *layer.pads))
    (height, width), (down, right) = layer.kernel, layer.dilations
    window = ((height - 1) * down + 1, (width - 1) * right + 1)
    views = sliding_window_view(padded, window, axis=(1, 2))
    views = views[:, :: layer.strides[0], :: layer.strides[1], ::down, ::right]
    rows, columns = views.shape[1:3]
    count = min(PATCHES_PER_IMAGE, rows * columns)
    chosen = random.choice(rows * columns, count, replace=False)
    return np.ascontiguousarray(views[:, chosen // columns, chosen % columns].swapaxes(0, 1))


def _round_layer(
    placed: ov.Model, layer: Layer, moments: list[Moments], bits: int, limit_pairs: bool
) -> float:
    """Round one layer's weights and write them; returns its error relative to nearest rounding."""
    quantizer = producer(find_node(placed, layer.name), 1)
    stored, step = _weight_and_step(layer.name, quantizer)
    rounded = rounded_weight(layer, stored, step, moments, bits=bits, limit_pairs=limit_pairs)
    nearest = np.rint(stored / step) * step
    replace_constant_input(quantizer, 0, rounded)
    before = output_noise(layer, stored - nearest, moments).sum()
    after = output_noise(layer, stored - rounded, moments).sum()
    return float(after / before) if before > 0 else 1.0


def _weight_and_step(name: str, quantizer: ov.Node) -> tuple[Weight, Weight]:
    """What a weight's FakeQuantize reads, and the step of its grid."""
    stored = constant_value(producer(quantizer, 0))
    low, high = (constant_value(producer(quantizer, index)) for index in (1, 2))
    if stored is None or low is None or high is None:
        raise GraphError(f"{name}: its weights are not constant; cannot round them")
    return stored, (high - low) / (quantizer.get_attributes()["levels"] - 1)


def rounded_weight(
    layer: Layer,
    weight: Weight,
    step: Weight,
    moments: list[Moments],
    *,
    bits: int,
    limit_pairs: bool,
) -> Weight:
    """The weight (any convolution's shape) on the grid of ``step``, rounded with error feedback."""
    steps = np.broadcast_to(step, (*weight.shape[:-3], 1, 1, 1))
    rounded = np.empty(weight.shape, np.float32)
    for where, part, seen in _blocks(layer, moments):
        block = weight[where].reshape(layer.outputs, -1)
        own_step = steps[where[0]].reshape(layer.outputs, 1).astype(np.float64)
        integers = round_with_feedback(
            block,
            own_step,
            seen,
            largest=2 ** (bits - 1) - 1,
            partners=_partners(part.stop - part.start, layer.kernel) if limit_pairs else None,
        )
        rounded[where] = (integers * own_step).reshape(rounded[where].shape)
    return rounded


def output_noise(layer: Layer, difference: Weight, moments: list[Moments]) -> Weight:
    """Mean square, per output channel of a group, of what a change of weights does to the output.

    Correlations between blocks of one kernel are left out.
    """
    noise = np.zeros((len(moments) if layer.grouped else 1, layer.outputs), np.float64)
    for index, (where, _, seen) in enumerate(_blocks(layer, moments)):
        block = difference[where].reshape(layer.outputs, -1).astype(np.float64)
        noise[index if layer.grouped else 0] += np.einsum("oi,oi->o", block @ seen, block)
    return noise


def _blocks(
    layer: Layer, moments: list[Moments]
) -> Iterator[tuple[tuple[int | slice, ...], slice, Moments]]:
    """For each block: where in the weight it is, its input channels and their moments."""
    for index, (part, seen) in enumerate(zip(layer.channels, moments, strict=True)):
        yield ((index,) if layer.grouped else (slice(None), part)), part, seen


def _partners(channels: int, kernel: tuple[int, int]) -> Indices:
    """(P, channels * taps): each input's partners, those of its channel at the same tap, or -1."""
    taps = kernel[0] * kernel[1]
    other = paired_channels(channels)[:, :, None]
    return np.where(other >= 0, other * taps + np.arange(taps), -1).reshape(len(other), -1)
