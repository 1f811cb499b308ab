"""Fallback to float: a tensor leaves INT8, and so does whatever computes on it.

An operation with only one of its operands in INT8 computes in float on weights that are unpacked at
every start; OpenVINO 2026.4 also mixes such weights up now and then if it compiles for several
streams. So the weights that meet a float tensor fall back too, with their biases.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.errors import GraphError
from detq.graph.layers import ConvLayer, quantized_layers
from detq.graph.surgery import (
    WEIGHTED,
    bypass,
    constant_value,
    nodes_by_name,
    nodes_of_type,
    producer,
    producers,
    replace_constant_input,
)
from detq.quant.cost import CostModel, macs, reads_zero_point
from detq.quant.network import FLOAT, Network
from detq.quant.quantizers import HANDING_ON, activation_nodes, readers

Array = npt.NDArray[np.float32]


def fall_back(network: Network, quantizers: Collection[str]) -> Network:
    """The same with the named quantizers' tensors, and what reads them, in float.

    Weights and biases become those of ``network.float_model`` again. Raises GraphError for a
    quantizer that is not there.
    """
    unknown = set(quantizers) - {quantizer.name for quantizer in network.quantizers}
    if unknown:
        raise GraphError(f"{network.spec.name}: no quantizer is named {min(unknown)!r}")
    model = network.model.clone()
    before = nodes_by_name(network.float_model)
    returned = _take_out(model, quantizers)
    for layer in returned:
        for node, index, _, exact in list(exact_constants(layer, before)):
            replace_constant_input(node, index, exact)
    model.validate_nodes_and_infer_types()
    names = {layer.name for layer in returned}
    shifts = {name: shift for name, shift in network.bias_shifts.items() if name not in names}
    changed = replace(network, model=model, bias_shifts=shifts)
    return changed.with_rules(dict.fromkeys(quantizers, FLOAT), {})


def _take_out(model: ov.Model, quantizers: Collection[str]) -> list[ConvLayer]:
    """Bypass quantizers, and those of weights that meet float tensors then; changes the model.

    Returns the layers whose weights these are. A product of two activations has none, and its other
    operand stays as it is.
    """
    layers = [
        layer for layer in quantized_layers(model, *WEIGHTED) if _is_quantized(layer.convolution)
    ]
    for node in activation_nodes(model):
        if node.get_friendly_name() in quantizers:
            bypass(node)
    returned = [layer for layer in layers if not _is_quantized(layer.convolution)]
    for layer in returned:
        bypass(producer(layer.convolution, 1))
    return returned


def _is_quantized(node: ov.Node) -> bool:
    """True if both operands of a weighted operation come from quantizers."""
    return all(_hands_on_quantized(above) for above in producers(node)[:2])


def _hands_on_quantized(node: ov.Node) -> bool:
    if node.get_type_name() == "FakeQuantize":
        return True
    inputs = [above for above in producers(node) if constant_value(above) is None]
    return node.get_type_name() in HANDING_ON and all(map(_hands_on_quantized, inputs))


def exact_constants(
    layer: ConvLayer, before: Mapping[str, ov.Node]
) -> Iterator[tuple[ov.Node, int, Array, Array]]:
    """(node, input, value now, value before) of a layer's weight and of its bias.

    ``before`` are the nodes of the float model by their friendly names.
    """
    for node in (layer.convolution, *([layer.bias] if layer.bias else [])):
        original = before.get(node.get_friendly_name())
        for index in range(2):
            now = constant_value(producer(node, index))
            value = None if original is None else constant_value(producer(original, index))
            if now is not None and value is not None:
                yield node, index, now, value.reshape(now.shape)


@dataclass(frozen=True)
class QuantizerGroup:
    """Quantizers that share a grid, and what the operations that read their tensors cost.

    ``cost`` is that of computing in float without the grid, ``zero_point_cost`` that of its
    zero point; both are shares of the latency in plain INT8.
    """

    members: tuple[str, ...]
    cost: float
    mac_share: float
    per_tensor: bool
    zero_point_cost: float


def quantizer_groups(network: Network) -> list[QuantizerGroup]:
    """Those that are still there, in execution order, with what each would cost in float."""
    nodes = {node.get_friendly_name(): node for node in activation_nodes(network.model)}
    quantizers = [quantizer for quantizer in network.quantizers if quantizer.name in nodes]
    costs = CostModel.of(network.model)
    total = sum(macs(node) for node in nodes_of_type(network.model, *WEIGHTED))
    groups = []
    for leader in dict.fromkeys(quantizer.group for quantizer in quantizers):
        some = [quantizer for quantizer in quantizers if quantizer.group == leader]
        met = {
            reader.get_name(): reader for q in some for reader in readers(nodes[q.name])
        }.values()
        read = (producer(nodes[q.name]) for q in some)
        images = [node for node in read if node.get_type_name() == "Parameter"]
        groups.append(
            QuantizerGroup(
                members=tuple(quantizer.name for quantizer in some),
                cost=costs.in_float(met)
                + sum(costs.float_sum(nodes[q.name]) for q in some if q.is_fine_branch)
                + sum(map(costs.float_image, images)),
                mac_share=sum(macs(node) for node in met) / total,
                per_tensor=all(quantizer.channel_axis is None for quantizer in some),
                zero_point_cost=costs.zero_point(filter(reads_zero_point, met)),
            )
        )
    return groups
