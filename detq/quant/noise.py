"""Where along the network the INT8 graph departs from float: the SQNR of every tensor it rounds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.errors import CalibrationError
from detq.graph.execute import compile_exact
from detq.graph.surgery import with_outputs
from detq.quant.observation import FloatNetwork
from detq.quant.quantizer import QuantizedDetector
from detq.quant.quantizers import activation_nodes

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorNoise:
    """How much of a tensor's power is left of the float network's, in dB.

    ``sqnr_db`` counts all that was rounded before the tensor, and the tensor itself.
    """

    name: str
    part: str
    sqnr_db: float


def tensor_noise(quantized: QuantizedDetector, images: Iterable[Image]) -> list[TensorNoise]:
    """One entry per activation quantizer of the INT8 graph, in execution order.

    ``images`` float32 [1, 3, H, W]. Raises CalibrationError if there was none.
    """
    parts = {quantizer.name: quantizer.part for quantizer in quantized.quantizers}
    int8 = quantized.graph.model.clone()
    nodes = [n for n in activation_nodes(int8) if n.get_friendly_name() in parts]
    names = [node.get_friendly_name() for node in nodes]
    exact = _observed_in_float(quantized.unfinished.model, names)
    rounded = compile_exact(with_outputs(int8, [node.output(0) for node in nodes]))
    signal, noise = np.zeros(len(names)), np.zeros(len(names))
    seen = False
    for image in images:
        seen = True
        wanted, found = exact(image), rounded(image)
        for index in range(len(names)):
            signal[index] += float(np.square(wanted[index], dtype=np.float64).sum())
            noise[index] += float(np.square(wanted[index] - found[index], dtype=np.float64).sum())
    if not seen:
        raise CalibrationError("no image to measure noise on; give it at least one readable one")
    decibels = 10 * np.log10(np.maximum(signal, 1e-30) / np.maximum(noise, 1e-30))
    return [
        TensorNoise(name, parts[name], float(value))
        for name, value in zip(names, decibels, strict=True)
    ]


def _observed_in_float(placed: ov.Model, names: list[str]) -> ov.CompiledModel:
    """The float network with the tensors that the named quantizers read as outputs."""
    network = FloatNetwork(placed)
    before = {node.get_friendly_name(): node.input_value(0) for node in activation_nodes(placed)}
    taps = [
        network.node(before[name].get_node().get_friendly_name()).output(before[name].get_index())
        for name in names
    ]
    return compile_exact(with_outputs(network.model, taps))
