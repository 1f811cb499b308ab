"""An ONNX graph under construction: nodes, initializers, and which name each OpenVINO port has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import openvino as ov
from onnx import helper, numpy_helper

from detq.errors import GraphError

OPSET = 17
"""It has per-channel QuantizeLinear (13) and HardSwish (14); the runtimes of today read it."""
IR_VERSION = 8
Tensor = npt.NDArray[Any]


class OnnxWriter:
    """Collects what the walk over an ``openvino.Model`` emits.

    Values are called as the OpenVINO operation that makes them, so that a layer can be found again.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._values: dict[tuple[str, int], str] = {}
        self._taken = set[str]()

    def name(self, wanted: str) -> str:
        """A name that no other value has."""
        name, number = wanted, 1
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name

    def bind(self, port: ov.Output, name: str) -> None:
        """``port`` is the value of that name."""
        self._values[port.get_node().get_name(), port.get_index()] = name

    def is_bound(self, port: ov.Output) -> bool:
        """True if ``port`` has a value already."""
        return (port.get_node().get_name(), port.get_index()) in self._values

    def value(self, port: ov.Output) -> str:
        """The name of the value of ``port``; constants become initializers when they are read.

        Raises GraphError for a port that nothing made.
        """
        node = port.get_node()
        if not self.is_bound(port):
            if node.get_type_name() != "Constant":
                raise GraphError(f"{node.get_friendly_name()}: is read before it is made")
            self.bind(port, self.constant(constant_data(node), node.get_friendly_name()))
        return self._values[node.get_name(), port.get_index()]

    def constant(self, value: Tensor, wanted: str) -> str:
        """An initializer; its name."""
        name = self.name(wanted)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def emit(
        self, kind: str, inputs: Sequence[str], wanted: str, *, outputs: int = 1, **attributes: Any
    ) -> list[str]:
        """Add a node called ``wanted``; the names of its outputs."""
        name = self.name(wanted)
        made = [name, *(self.name(f"{wanted}:{index}") for index in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, list(inputs), made, name, **attributes))
        return made

    def write(self, node: ov.Node, kind: str, inputs: Sequence[str], **attributes: Any) -> None:
        """Add the node that makes all outputs of ``node``."""
        made = self.emit(
            kind, inputs, node.get_friendly_name(), outputs=len(node.outputs()), **attributes
        )
        for port, name in zip(node.outputs(), made, strict=True):
            self.bind(port, name)


def constant_data(node: ov.Node) -> Tensor:
    """The value of a Constant, half precision widened to float32."""
    data = np.asarray(node.get_data())
    return data.astype(np.float32) if data.dtype == np.float16 else data
