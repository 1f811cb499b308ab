"""Weights are rounded to their grids, to the nearest integers or by GPTQ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.errors import GraphError
from detq.graph.layers import ConvLayer, Grid, quantized_layers
from detq.graph.surgery import replace_constant_input
from detq.quant.hessians import (
    Hessian,
    Hessians,
    KernelBlocks,
    gptq_weight,
    hessians,
    map_layers,
    output_noise,
)
from detq.quant.network import Network, Stage
from detq.quant.pipeline import Seen

ROUNDING_IMAGES = 96
"""With 48 the blood-cell model agrees with float by one point less on held-back images."""


@dataclass(frozen=True)
class RoundWeights:
    """Write the values that quantized convolution weights take on their grids into the model.

    ``nearest`` changes nothing that it computes. ``gptq`` lets the weights of a layer make up for
    each other's errors (:mod:`detq.numerics.gptq`); coarse kernels lie on their grids already.
    """

    method: Literal["nearest", "gptq"] = "nearest"
    bits: int = 8
    limit_pairs: bool = True
    name: ClassVar[str] = "round weights"
    stage: ClassVar[Stage] = Stage.WEIGHTS
    keeps_float: ClassVar[bool] = False

    def wants(self, network: Network) -> Sequence[Hessians]:
        """What the layers see, for GPTQ."""
        if self.method == "nearest":
            return []
        return hessians(self._layers(network, network.model), "rounding weights", ROUNDING_IMAGES)

    def apply(self, network: Network, seen: Seen) -> Network:
        """Round them."""
        model = network.model.clone()
        if self.method == "nearest":
            for layer in quantized_layers(model):
                _round_to_nearest(layer)
            return replace(network, model=model, did="to the nearest integers")
        layers = {layer.name: layer for layer in self._layers(network, model)}

        def rounded(blocks: KernelBlocks, hessian: list[Hessian]) -> _Rounded:
            return self._rounded(layers[blocks.name], blocks, hessian)

        gains = []
        for one in map_layers(rounded, seen.statistics, self.wants(network)):
            replace_constant_input(one.quantizer, 0, one.weight)
            gains.append(one.gain)
        model.validate_nodes_and_infer_types()
        did = (
            f"{len(layers)} convolutions, each with {np.median(gains or [1.0]):.0%} of the output "
        )
        return replace(network, model=model, did=f"{did}error of nearest rounding (median)")

    def _layers(self, network: Network, model: ov.Model) -> list[ConvLayer]:
        coarse = {split.coarse for split in network.splits}
        return [
            layer
            for layer in quantized_layers(model, "ConvolutionBackpropData")
            if layer.name not in coarse and (layer.is_convolution or layer.is_tiling)
        ]

    def _rounded(self, layer: ConvLayer, blocks: KernelBlocks, hessian: list[Hessian]) -> _Rounded:
        quantizer, grid = _quantizer_and_grid(layer)
        stored, step = layer.weight, grid.step
        if layer.is_tiling:
            stored, step = _as_rows(stored), _as_rows(np.broadcast_to(step, (1, *stored.shape[1:])))
        bits = self.bits if layer.is_convolution else 8  # as its grid
        rounded = gptq_weight(
            blocks, stored, step, hessian, bits=bits, limit_pairs=self.limit_pairs
        )
        nearest = np.rint(stored / step) * step
        before = output_noise(blocks, stored - nearest, hessian).sum()
        after = output_noise(blocks, stored - rounded, hessian).sum()
        gain = float(after / before) if before > 0 else 1.0
        if layer.is_tiling:
            rounded = rounded.reshape(*layer.weight.shape[1:], -1).transpose(3, 0, 1, 2)
        return _Rounded(quantizer, np.ascontiguousarray(rounded, np.float32), gain)


class _Rounded(NamedTuple):
    """The weight that a quantizer is to read, and its output error relative to the nearest's."""

    quantizer: ov.Node
    weight: npt.NDArray[np.float32]
    gain: float


def _as_rows(kernels: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """(I, O, kH, kW) -> (O * kH * kW, I, 1, 1)."""
    return kernels.transpose(1, 2, 3, 0).reshape(-1, len(kernels), 1, 1)


def _round_to_nearest(layer: ConvLayer) -> None:
    quantizer, grid = _quantizer_and_grid(layer)
    nearest = np.clip(np.rint(layer.weight / grid.step), -grid.largest, grid.largest) * grid.step
    replace_constant_input(quantizer, 0, nearest.astype(np.float32))


def _quantizer_and_grid(layer: ConvLayer) -> tuple[ov.Node, Grid]:
    grid = layer.grid
    if layer.quantizer is None or grid is None:
        raise GraphError(f"{layer.name}: its weights have no constant grid; cannot round them")
    return layer.quantizer, grid
