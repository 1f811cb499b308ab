"""The one representation that everything below the adapters works on."""

from __future__ import annotations

from dataclasses import dataclass

import openvino as ov

from detq.contract import INPUT, OUTPUT
from detq.errors import GraphError
from detq.records import ModelSpec

__all__ = ["INPUT", "OUTPUT", "DetectorGraph"]


@dataclass(frozen=True)
class DetectorGraph:
    """An ``openvino.Model`` that obeys detq's contract, with the spec that travels with it.

    Input ``images`` float32 [B, 3, H, W], RGB, 0..1. A detector's output is ``predictions`` float32
    [B, 4 + nc, N]: centre x, centre y, width, height in input pixels, then ``nc`` class scores
    after sigmoid. A classifier's is ``scores`` float32 [B, nc] after softmax
    (:data:`detq.contract.CONTRACTS`).
    The batch is 1 and every shape static, unless a caller reshapes a copy.
    """

    model: ov.Model
    spec: ModelSpec

    @property
    def is_quantized(self) -> bool:
        """True if anything in it is rounded to a grid."""
        return any(node.get_type_name() == "FakeQuantize" for node in self.model.get_ops())

    def __post_init__(self) -> None:
        _check_port(self.spec, "input", self.model.inputs, INPUT, (1, 3, *self.spec.size_hw))
        contract = self.spec.contract
        expected = contract.begin(self.spec.class_count)
        _check_port(self.spec, "output", self.model.outputs, contract.output, expected)


def _check_port(
    spec: ModelSpec, kind: str, ports: list[ov.Output], name: str, expected: tuple[int, ...]
) -> None:
    """Exactly one port, of that name, float32, whose shape begins as expected."""
    if len(ports) != 1 or name not in ports[0].get_names():
        found = [sorted(port.get_names()) for port in ports]
        raise GraphError(f"{spec.name}: expected one {kind} named {name!r}, found {found}")
    port = ports[0]
    if port.get_partial_shape().is_dynamic:
        raise GraphError(f"{spec.name}: {kind} {name!r} has a dynamic shape; pass --imgsz")
    shape = tuple(port.get_shape())
    if shape[: len(expected)] != expected:
        raise GraphError(
            f"{spec.name}: {kind} {name!r} has shape {list(shape)}, expected it to begin with "
            f"{list(expected)} for {spec.class_count} classes"
        )
    if port.get_element_type() != ov.Type.f32:
        raise GraphError(f"{spec.name}: {kind} {name!r} is {port.get_element_type()}, expected f32")
