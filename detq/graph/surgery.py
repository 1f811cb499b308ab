"""Finding, naming, replacing and observing nodes of an ``openvino.Model``.

Functions that change a model say so in their name or docstring; none changes the model of a caller
who did not ask for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.errors import GraphError

CONVOLUTIONS = frozenset({"Convolution", "GroupConvolution"})
WEIGHTED = CONVOLUTIONS | {"ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}


def nodes_of_type(model: ov.Model, *types: str) -> list[ov.Node]:
    """All nodes of the given operation types, inputs before their users."""
    return [node for node in model.get_ordered_ops() if node.get_type_name() in types]


def find_node(model: ov.Model, name: str) -> ov.Node:
    """The node with that friendly name. Raises GraphError if there is none."""
    for node in model.get_ops():
        if node.get_friendly_name() == name:
            return node
    raise GraphError(f"{model.get_friendly_name()}: no operation is named {name!r}")


def nodes_by_name(model: ov.Model) -> dict[str, ov.Node]:
    """All nodes by their friendly names."""
    return {node.get_friendly_name(): node for node in model.get_ops()}


def producer(node: ov.Node, index: int = 0) -> ov.Node:
    """The node that feeds input ``index``."""
    return node.input_value(index).get_node()


def producers(node: ov.Node) -> list[ov.Node]:
    """The nodes that feed the inputs of ``node``, in the order of its inputs."""
    return [port.get_node() for port in node.input_values()]


def consumers(node: ov.Node) -> list[ov.Node]:
    """The nodes that read any output of ``node``."""
    return [port.get_node() for output in node.outputs() for port in output.get_target_inputs()]


def downstream(nodes: Iterable[ov.Node]) -> Iterator[ov.Node]:
    """Every node that depends on one of ``nodes``, each once, nearest first; those left out."""
    return _walk(nodes, consumers)


def upstream(nodes: Iterable[ov.Node]) -> Iterator[ov.Node]:
    """Every node that one of ``nodes`` depends on, each once, nearest first; those left out."""
    return _walk(nodes, producers)


def _walk(
    nodes: Iterable[ov.Node], neighbours: Callable[[ov.Node], list[ov.Node]]
) -> Iterator[ov.Node]:
    """Breadth first."""
    pending = deque(other for node in nodes for other in neighbours(node))
    seen = set[str]()
    while pending:
        node = pending.popleft()
        if node.get_name() not in seen:
            seen.add(node.get_name())
            yield node
            pending.extend(neighbours(node))


def constant_value(node: ov.Node) -> npt.NDArray[np.float32] | None:
    """The value of a constant subgraph (a Constant behind Convert, Reshape or FakeQuantize).

    Values are those of the Constant, in its own type, in the shape of ``node``'s output. None if
    the node depends on a model input.
    """
    if node.get_type_name() == "Constant":
        return cast("npt.NDArray[np.float32]", node.get_data())
    if node.get_type_name() in ("Convert", "Reshape", "FakeQuantize"):
        value = constant_value(producer(node))
        return None if value is None else value.reshape(node.get_output_shape(0))
    return None


def constant_input(node: ov.Node) -> int | None:
    """Which of a two-operand node's inputs is constant, the second if both are; None if neither."""
    constant = (index for index in (1, 0) if constant_value(producer(node, index)) is not None)
    return next(constant, None)


def replace_constant_input(node: ov.Node, index: int, value: npt.NDArray[np.float32]) -> None:
    """Give input ``index`` of ``node`` a new constant; changes the model."""
    constant = ov.opset15.constant(value, dtype=np.float32)
    constant.set_friendly_name(producer(node, index).get_friendly_name())
    node.input(index).replace_source_output(constant.output(0))


def bypass(node: ov.Node) -> None:
    """Connect the users of ``node`` to its first input; changes the model."""
    node.output(0).replace(node.input_value(0))


def with_outputs(model: ov.Model, outputs: list[ov.Output]) -> ov.Model:
    """A model over the same nodes whose results are ``outputs`` (of that model), in this order.

    The nodes get the new results as consumers, so ``model`` itself is not to be used afterwards.
    """
    results = [ov.opset15.result(output) for output in outputs]
    return ov.Model(results, model.get_parameters(), f"{model.get_friendly_name()}_observed")
