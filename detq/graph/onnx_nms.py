"""End-to-end ONNX exports: the graph is cut before its non-maximum suppression.

ONNX's own NonMaxSuppression and TensorRT's plugins take boxes and scores of all candidates. These
become the outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from detq.errors import CheckpointError

SUPPRESSIONS = frozenset(
    {
        "NonMaxSuppression",
        "EfficientNMS_TRT",
        "EfficientNMSX_TRT",
        "BatchedNMS_TRT",
        "BatchedNMSDynamic_TRT",
    }
)
_CENTRE_SIZE = ("box_coding", "center_point_box")
"""Attributes that are 1 where boxes are centre and size, not corners."""


@dataclass(frozen=True)
class Cut:
    """A graph with boxes and scores as outputs, and how its boxes are written."""

    proto: onnx.ModelProto
    centre_size: bool


def cut_before_suppression(proto: onnx.ModelProto, where: str) -> Cut | None:
    """The graph up to its suppression; None if there is none. ``proto`` stays as it is.

    Raises CheckpointError, naming ``where``, for more than one.
    """
    found = [node for node in proto.graph.node if node.op_type in SUPPRESSIONS]
    if not found:
        return None
    if len(found) > 1:
        raise CheckpointError(
            f"{where}: {len(found)} non-maximum suppressions in the graph; export it without"
        )
    node = found[0]
    wanted = [node.input[0], node.input[1]]
    cut = onnx.ModelProto()
    cut.CopyFrom(proto)
    del cut.graph.node[:], cut.graph.output[:], cut.graph.value_info[:]
    cut.graph.node.extend(_needed(proto, wanted))
    cut.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted
    )
    read = {name for each in cut.graph.node for name in each.input}
    unused = [port for port in cut.graph.input if port.name not in read]
    for port in unused:  # such as im_shape, which only the suppression's results were scaled by
        cut.graph.input.remove(port)
    coded = {each.name: each.i for each in node.attribute}
    return Cut(cut, any(coded.get(name, 0) == 1 for name in _CENTRE_SIZE))


def _needed(proto: onnx.ModelProto, wanted: list[str]) -> Iterator[onnx.NodeProto]:
    """The nodes that the named values depend on, in their order."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    pending, seen = list(wanted), set[str]()
    while pending:
        maker = makers.get(pending.pop())
        if maker is not None and maker.output[0] not in seen:
            seen.add(maker.output[0])
            pending.extend(maker.input)
    return (node for node in proto.graph.node if node.output and node.output[0] in seen)
