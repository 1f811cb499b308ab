"""Predicted latency of convolutions: what a float layer costs, before anything is timed.

A roofline: the multiplications at the machine's rate, or the traffic at the cache's, whichever
takes longer, and what it costs to call an operation at all. Costs are shares of what the network's
convolutions take in plain INT8, on that of two machines where the share is larger: a machine that
multiplies faster pays more for traffic and calls. So a budget holds on both, and choices are the
same on every machine (docs/performance.md says how well the predictions hold).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import openvino as ov

from detq.graph.layers import layer_of
from detq.graph.surgery import CONVOLUTIONS, nodes_of_type


@dataclass(frozen=True)
class Rates:
    """What two cores do. ``input_channels`` are multiplied at a time in INT8, fewer take as long.

    ``depthwise_macs_per_s`` holds in either precision: there is nothing to sum over.
    ``bytes_per_s`` is what feature maps move at, ``call_s`` the least that an operation takes.
    A zero point of its input that is not in its bias takes ``zero_point_share`` of a convolution.
    """

    int8_macs_per_s: float
    float_macs_per_s: float
    depthwise_macs_per_s: float
    bytes_per_s: float
    call_s: float
    input_channels: int
    zero_point_share: float


VNNI = Rates(440e9, 125e9, 20e9, 100e9, 20e-6, 4, 0.0)
AMX = Rates(2600e9, 180e9, 40e9, 30e9, 8e-6, 64, 1.0)


@dataclass(frozen=True)
class CostModel:
    """Costs for one network, as shares of its latency in plain INT8, which is kept per rates."""

    plain_s: Mapping[Rates, float]

    @classmethod
    def of(cls, model: ov.Model, machines: Iterable[Rates] = (VNNI, AMX)) -> CostModel:
        """For a graph of float or quantized convolutions."""
        convolutions = nodes_of_type(model, *CONVOLUTIONS)
        return cls({
            rates: sum(convolution_seconds(node, rates, int8=True) for node in convolutions)
            for rates in machines
        })  # fmt: skip

    def in_float(self, operations: Iterable[ov.Node]) -> float:
        """Computing (Group)Convolutions or MatMuls in float."""
        return self._largest(operations, float_seconds)

    def float_sum(self, fine: ov.Node) -> float:
        """Adding the fine branch of a split convolution in float, which is a call of its own."""
        return self._largest([fine], float_sum_seconds)

    def float_image(self, image: ov.Node) -> float:
        """Reading the network's input in float, where INT8 reads the pixels as they are."""
        return self._largest([image], float_image_seconds)

    def zero_point(self, convolutions: Iterable[ov.Node]) -> float:
        """Reading a tensor's zero point in each of some convolutions."""
        return self._largest(convolutions, zero_point_seconds)

    def _largest(
        self, nodes: Iterable[ov.Node], seconds: Callable[[ov.Node, Rates], float]
    ) -> float:
        """The share of some nodes together, on the machine where it is largest."""
        some = list(nodes)
        return max(
            (
                sum(seconds(node, rates) for node in some) / plain
                for rates, plain in self.plain_s.items()
                if plain > 0
            ),
            default=0.0,
        )


def macs(convolution: ov.Node) -> int:
    """Multiply-accumulates for one image of a (Group)Convolution, transposed one or MatMul.

    Every weight meets every output pixel once, or input pixel if transposed.
    """
    weights = _size(convolution.get_input_shape(1))
    if convolution.get_type_name() == "MatMul":
        return weights
    transposed = "Backprop" in convolution.get_type_name()
    port = convolution.get_input_shape(0) if transposed else convolution.get_output_shape(0)
    return weights * int(math.prod(list(port)[2:]))


def convolution_seconds(convolution: ov.Node, rates: Rates, *, int8: bool) -> float:
    """Predicted time of one weighted operation, its operands in INT8 or float32."""
    work = macs(convolution)
    inputs = list(convolution.get_input_shape(1))[-3:][0]
    rate = rates.int8_macs_per_s if int8 else rates.float_macs_per_s
    if inputs == 1:
        rate = rates.depthwise_macs_per_s
    elif int8:
        work *= math.ceil(inputs / rates.input_channels) * rates.input_channels / inputs
    values = sum(
        _size(shape)
        for shape in (
            convolution.get_input_shape(0),
            convolution.get_input_shape(1),
            convolution.get_output_shape(0),
        )
    )
    traffic = values * (1 if int8 else 4)
    return rates.call_s + float(max(work / rate, traffic / rates.bytes_per_s))


def float_seconds(operation: ov.Node, rates: Rates) -> float:
    """Predicted time that computing one weighted operation in float adds."""
    in_float, in_int8 = (convolution_seconds(operation, rates, int8=int8) for int8 in (False, True))
    return in_float - in_int8


def reads_zero_point(operation: ov.Node) -> bool:
    """True for a convolution that takes longer if its input has a zero point.

    That is one which cannot have it in its bias; grouped ones take no longer.
    """
    is_plain = operation.get_type_name() == "Convolution"
    return bool(is_plain and not layer_of(operation).absorbs_shift)


def zero_point_seconds(convolution: ov.Node, rates: Rates) -> float:
    """Predicted time that the zero point of its input adds to a convolution."""
    return rates.zero_point_share * convolution_seconds(convolution, rates, int8=True)


def float_sum_seconds(fine: ov.Node, rates: Rates) -> float:
    """Predicted time that a float sum adds to a split: both branches leave four bytes a value."""
    return rates.call_s + 4 * 4 * _size(fine.get_output_shape(0)) / rates.bytes_per_s


def float_image_seconds(image: ov.Node, rates: Rates) -> float:
    """Predicted time to convert pixels, to scale them and to bring them into the kernel's order.

    Each is a call of its own, which reads and writes four bytes a value.
    """
    return 3 * (rates.call_s + 2 * 4 * _size(image.get_output_shape(0)) / rates.bytes_per_s)


def _size(shape: ov.Shape) -> int:
    return int(math.prod(list(shape)))
