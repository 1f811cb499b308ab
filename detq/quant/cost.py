"""Predicted latency of convolutions: what a split or a float layer costs, before anything is timed.

A roofline: the multiplications at the machine's rate, or the traffic at the cache's, whichever
takes longer, and what it costs to call an operation at all. The rates are those of two cores with
AVX-512 VNNI (docs/results.md says how well the prediction holds); the choices that rest on it
depend on their ratios alone, and are the same on every machine.
"""

from __future__ import annotations

import math

import openvino as ov

INT8_MACS_PER_S = 440e9
FLOAT_MACS_PER_S = 125e9
DEPTHWISE_MACS_PER_S = 20e9
"""In either precision: the dot product instructions have nothing to sum over."""
BYTES_PER_S = 100e9
CALL_S = 20e-6


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


def convolution_seconds(convolution: ov.Node, *, int8: bool) -> float:
    """Predicted time of one weighted operation, its operands in INT8 or float32."""
    rate = INT8_MACS_PER_S if int8 else FLOAT_MACS_PER_S
    if list(convolution.get_input_shape(1))[-3:][0] == 1:
        rate = DEPTHWISE_MACS_PER_S
    values = sum(
        _size(shape)
        for shape in (
            convolution.get_input_shape(0),
            convolution.get_input_shape(1),
            convolution.get_output_shape(0),
        )
    )
    return CALL_S + float(max(macs(convolution) / rate, values * (1 if int8 else 4) / BYTES_PER_S))


def split_seconds(convolution: ov.Node) -> float:
    """Predicted time that splitting a convolution adds: a 1x1 on the same input, and the sum.

    The sum is an operation of its own: the activation function no longer joins the convolution.
    """
    taps = math.prod(list(convolution.get_input_shape(1))[-2:])
    output = _size(convolution.get_output_shape(0))
    traffic = _size(convolution.get_input_shape(0)) + 2 * output
    return 2 * CALL_S + float(
        max(macs(convolution) / taps / INT8_MACS_PER_S, traffic / BYTES_PER_S)
    )


def _size(shape: ov.Shape) -> int:
    return int(math.prod(list(shape)))
