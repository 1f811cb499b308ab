from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops

from detq.runtime.execution import (
    ExecutedConvolution,
    constant_bytes,
    convolution_macs,
    executed_convolutions,
    precision_shares,
)


def _weights(*shape: int) -> ov.Node:
    return ops.constant(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def _fake_quantize(node: ov.Node, low: float, high: float, levels: int) -> ov.Node:
    limits = [np.array(value, np.float32) for value in (low, high, low, high)]
    return ops.fake_quantize(node, *limits, levels)


def _model(*, quantized: tuple[str, ...] = ()) -> ov.Model:
    """Dense 16 -> 32 channels, depthwise 32, transposed 32 -> 8; 16x16 pixels, at last 32x32."""
    image = ops.parameter([1, 16, 16, 16], ov.Type.f32, name="x")

    def feed(name: str, node: ov.Node, weights: ov.Node) -> tuple[ov.Node, ov.Node]:
        if name not in quantized:
            return node, weights
        return _fake_quantize(node, 0, 4, 256), _fake_quantize(weights, -4, 4, 255)

    plain = ([1, 1], [1, 1], [1, 1], [1, 1])  # stride, padding, padding, dilation
    dense = ops.convolution(*feed("dense", ops.relu(image), _weights(32, 16, 3, 3)), *plain)
    dense.set_friendly_name("dense")
    depthwise = ops.group_convolution(
        *feed("depthwise", ops.relu(dense), _weights(32, 1, 1, 3, 3)), *plain
    )
    depthwise.set_friendly_name("depthwise")
    transposed = ops.convolution_backprop_data(
        *feed("transposed", ops.relu(depthwise), _weights(32, 8, 2, 2)),
        strides=[2, 2],
        pads_begin=[0, 0],
        pads_end=[0, 0],
        dilations=[1, 1],
    )
    transposed.set_friendly_name("transposed")
    return ov.Model([ops.result(transposed)], [image], "three")


MACS = {"dense": 256 * 32 * 16 * 9, "depthwise": 256 * 32 * 9, "transposed": 256 * 32 * 8 * 4}


def _executed(model: ov.Model) -> tuple[ExecutedConvolution, ...]:
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return executed_convolutions(compiled, convolution_macs(model))


def test_every_kind_of_convolution_is_counted() -> None:
    assert convolution_macs(_model()) == MACS


@pytest.mark.parametrize(
    "quantized", [(), ("dense",), ("dense", "depthwise"), tuple(MACS)], ids=str
)
def test_executed_work_is_the_models_work(quantized: tuple[str, ...]) -> None:
    """Whatever the runtime fuses or renames, nothing is lost and nothing counted twice."""
    executed = _executed(_model(quantized=quantized))
    assert sum(convolution.macs for convolution in executed) == sum(MACS.values())
    assert {convolution.precision for convolution in executed} <= {"int8", "fp32"}


def test_quantized_layer_executes_int8_and_its_neighbour_float() -> None:
    shares = precision_shares(_executed(_model(quantized=("dense",))))
    assert shares == {
        "int8": pytest.approx(MACS["dense"] / sum(MACS.values())),
        "fp32": pytest.approx(1 - MACS["dense"] / sum(MACS.values())),
    }
    assert next(iter(shares)) == "int8"


def test_kernel_of_an_unknown_name_counts_by_its_own_shapes() -> None:
    compiled = ov.Core().compile_model(_model(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    executed = executed_convolutions(compiled, {})
    assert sorted(convolution.macs for convolution in executed) == sorted(MACS.values())


def test_no_convolution_is_no_share() -> None:
    assert precision_shares([]) == {}


def test_size_is_that_of_the_constants() -> None:
    weights = 32 * 16 * 9 + 32 * 9 + 32 * 8 * 4
    assert constant_bytes(_model()) == pytest.approx(4 * weights, abs=100)
