"""What quantization takes from the mean of each output channel of each layer.

For every convolution the mean of ``float(x) - quantized(x)`` is measured per output channel on the
*float* activations ``x``, weights and inputs rounded and clipped exactly as in the final graph,
zero padding at the borders included. Adding it to the bias makes each layer unbiased given unbiased
inputs, so all layers are corrected in one run (Nagel et al., arXiv 1906.04721, section 4.2, with
measured means).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.graph.layers import ConvLayer, quantized_layers
from detq.graph.surgery import CONVOLUTIONS, constant_value, consumers, nodes_of_type, producer
from detq.quant.network import Image
from detq.quant.observation import FloatNetwork, NotKept

Shift = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BiasErrors(NotKept):
    """Of all quantized layers with a bias; a :class:`~detq.quant.observation.Want`.

    The result is the mean error [1, O, 1, 1] by the name of each layer. ``totals`` are the names of
    the sums of split convolutions, whose error is that of both branches.
    """

    model: ov.Model
    totals: frozenset[str]
    purpose: str
    images: int | None
    size_bytes: int = 0
    of_float = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BiasErrors) and self.model is other.model

    def __hash__(self) -> int:
        return id(self.model)

    def observer(self, network: FloatNetwork) -> _Mean:
        """What adds up."""
        layers = _layers_and_ends(self.model, self.totals)
        return _Mean([layer.name for layer, _ in layers], self._errors(network, layers))

    def _errors(
        self, network: FloatNetwork, layers: Sequence[tuple[ConvLayer, ov.Node]]
    ) -> list[ov.Output]:
        """The mean of (float - quantized) at each layer's end, behind the float network.

        A copy of the quantized model is joined to it: its quantizers read the float network's
        activations, so that each layer's error is its own.
        """
        order = [node.get_name() for node in self.model.get_ordered_ops()]
        exact = dict(zip(order, network.operations, strict=True))
        rounded = dict(zip(order, self.model.clone().get_ordered_ops(), strict=True))
        for node in nodes_of_type(self.model, "FakeQuantize"):
            if _reads_layer_input(node):
                above = node.input_value(0)
                twin = exact[above.get_node().get_name()].output(above.get_index())
                rounded[node.get_name()].input(0).replace_source_output(twin)
        means = []
        for _, end in layers:
            error = ops.subtract(exact[end.get_name()], rounded[end.get_name()])
            means.append(ops.reduce_mean(error, ops.constant([0, 2, 3]), True).output(0))
        return means


class _Mean:
    def __init__(self, names: Sequence[str], outputs: Sequence[ov.Output]) -> None:
        self._names, self.outputs, self._count = names, outputs, 0
        self._total = [np.zeros(output.get_shape(), np.float64) for output in outputs]

    def update(self, values: Sequence[Image]) -> None:
        self._total = [mean + value for mean, value in zip(self._total, values, strict=True)]
        self._count += 1

    def result(self) -> dict[str, Shift]:
        return {
            name: total / self._count for name, total in zip(self._names, self._total, strict=True)
        }


def _reads_layer_input(quantizer: ov.Node) -> bool:
    """False for quantizers of weights, and of a split convolution's branch before its sum.

    Only the fine branch has one: the coarse branch's is gone before biases are corrected.
    """
    above = producer(quantizer)
    return constant_value(above) is None and above.get_type_name() not in CONVOLUTIONS


def _layers_and_ends(model: ov.Model, totals: frozenset[str]) -> list[tuple[ConvLayer, ov.Node]]:
    """Every quantized convolution with a bias, and the last node of the same linear layer.

    That is behind the bias where a split convolution's other branch joins.
    """
    found = []
    for layer in quantized_layers(model, "ConvolutionBackpropData"):
        if layer.bias is not None:
            after = consumers(layer.bias)
            joins = len(after) == 1 and after[0].get_friendly_name() in totals
            found.append((layer, after[0] if joins else layer.bias))
    return found
