"""What an operation reads, as values of the ONNX graph or as numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openvino as ov

from detq.errors import GraphError
from detq.graph.surgery import producer
from detq.onnx_export.onnx_writer import OnnxWriter, Tensor, constant_data

Operation = Callable[[OnnxWriter, ov.Node], None]
"""Writes one node."""


def all_inputs(writer: OnnxWriter, node: ov.Node) -> list[str]:
    """The values of all inputs."""
    return [writer.value(port) for port in node.input_values()]


def first_input(writer: OnnxWriter, node: ov.Node) -> str:
    """The value of the first input."""
    return writer.value(node.input_value(0))


def known_input(node: ov.Node, index: int) -> Tensor:
    """The value of an input that must be constant. Raises GraphError if it is not."""
    constant = producer(node, index)
    if constant.get_type_name() != "Constant":
        raise GraphError(
            f"{node.get_friendly_name()}: input {index} of {node.get_type_name()} is not constant"
        )
    return constant_data(constant)


def integers(node: ov.Node, index: int) -> list[int]:
    """The integers of an input that must be constant. Raises GraphError if it is not."""
    return [int(value) for value in np.atleast_1d(known_input(node, index))]


def int64_constant(writer: OnnxWriter, node: ov.Node, values: list[int], what: str) -> str:
    """An initializer of integers, called after the node that reads it."""
    return writer.constant(np.array(values, np.int64), f"{node.get_friendly_name()}/{what}")


def float_constant(writer: OnnxWriter, node: ov.Node, value: float, what: str) -> str:
    """An initializer of one number, called after the node that reads it."""
    return writer.constant(np.array(value, np.float32), f"{node.get_friendly_name()}/{what}")
