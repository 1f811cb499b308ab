"""An ONNX file that detq wrote -> the graph that it was written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import openvino as ov

from detq.errors import GraphError
from detq.files import text_stem
from detq.graph.convert import name_ports
from detq.graph.detector_graph import DetectorGraph
from detq.graph.metadata import stored_spec
from detq.graph.onnx_reading import check_onnx, converted, metadata_of
from detq.graph.surgery import CONVOLUTIONS, consumers, nodes_of_type

_UNBIASED = "/WithoutBiases"
"""What OpenVINO appends to the name of a convolution whose bias it makes an addition."""


def as_written(
    proto: onnx.ModelProto, path: Path, class_names: Sequence[str] | None = None
) -> DetectorGraph | None:
    """The graph by what the file says of itself; None if detq did not write it, or not like this.

    Another program may have changed it since, and kept what it says. Raises CheckpointError for a
    graph that is not valid.
    """
    spec = stored_spec(metadata_of(proto), text_stem(path))
    if spec is None:
        return None
    check_onnx(proto, path)
    model, _ = converted(proto, path)
    _name_as_written(model)
    names = {node.get_friendly_name() for node in nodes_of_type(model, *CONVOLUTIONS)}
    kept = tuple(conv for conv in spec.reparameterized if conv.name in names)  # those not split
    spec = replace(spec, reparameterized=kept, class_names=tuple(class_names or spec.class_names))
    try:
        graph = DetectorGraph(model, spec)
    except GraphError:
        return None
    name_ports(model, spec.name, spec.contract.output)
    return graph


def _name_as_written(model: ov.Model) -> None:
    """Give convolutions back the names that their additions have taken; changes the model."""
    for node in nodes_of_type(model, *CONVOLUTIONS):
        name = node.get_friendly_name().removesuffix(_UNBIASED)
        for user in consumers(node):
            if user.get_friendly_name() == name:
                user.set_friendly_name(f"{name}/bias")
        node.set_friendly_name(name)
