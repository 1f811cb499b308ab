"""torch module or OpenVINO IR -> :class:`DetectorGraph`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import openvino as ov

from detq.contract import INPUT, OUTPUT
from detq.errors import CheckpointError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.execute import core
from detq.graph.surgery import nodes_of_type
from detq.records import ModelSpec, SizeHW

_TORCH_NAME = re.compile(r"^__module\.(?P<path>[^/]+)/")
_CONVOLUTION_TYPES = ("Convolution", "GroupConvolution", "ConvolutionBackpropData")


def from_torch(module: Any, spec: ModelSpec) -> DetectorGraph:
    """Trace a float module whose ``forward`` obeys the contract, for ``spec.size_hw``.

    ``module`` is a ``torch.nn.Module`` in eval mode, not changed. Convolutions in the graph are
    named by their module path (``backbone.stem.conv``).
    """
    from detq.models.scripting import scripted  # noqa: PLC0415 - torch takes seconds

    shape = [1, 3, *spec.size_hw]
    model = ov.convert_model(scripted(module, shape), input=shape)
    for node in nodes_of_type(model, *_CONVOLUTION_TYPES):
        if match := _TORCH_NAME.match(node.get_friendly_name()):
            node.set_friendly_name(match["path"])
    name_ports(model, spec.name, spec.contract.output)
    return DetectorGraph(model, spec)


def from_ir(path: Path, spec: ModelSpec) -> DetectorGraph:
    """An OpenVINO IR (``.xml`` beside its ``.bin``) that obeys the contract but for its port
    names.
    """
    model = read_ir(path)
    if not model.inputs or not model.outputs:
        raise CheckpointError(f"{path}: has no input or no output; export the model again")
    make_static(model, spec.size_hw, path)
    name_ports(model, spec.name, spec.contract.output)
    return DetectorGraph(model, spec)


def read_ir(path: Path) -> ov.Model:
    """The graph of an ``.xml`` with its ``.bin`` beside it. Raises CheckpointError."""
    try:
        return core().read_model(path)
    except Exception as error:  # pugixml's and OpenVINO's errors have no common root
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path}: not a readable OpenVINO IR ({lines[-1]})") from None


def make_static(model: ov.Model, size_hw: SizeHW, path: Path) -> None:
    """Fix batch and size of the image, the only input; changes the model.

    Raises CheckpointError, naming ``path``, if the graph cannot take that size.
    """
    port = model.inputs[0]
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic or len(shape) != 4:
        raise CheckpointError(f"{path}: expected an image input [B, 3, H, W], found {shape}")
    sides = [str(side) for side in (shape[2], shape[3])]
    try:
        model.reshape({port: [1, 3, *size_hw]})
    except RuntimeError:
        if shape[2].is_dynamic or shape[3].is_dynamic:
            raise CheckpointError(
                f"{path}: its graph does not fit {size_hw[0]}x{size_hw[1]} (HxW), though its input "
                "leaves the size open; pass the size that it was made for as --imgsz"
            ) from None
        raise CheckpointError(
            f"{path}: its graph is fixed to {sides[0]}x{sides[1]} (HxW); pass that as --imgsz, or "
            f"export it again for {size_hw[0]}x{size_hw[1]}"
        ) from None


def name_ports(model: ov.Model, name: str, output: str = OUTPUT) -> None:
    """Give input and output the names of the contract; changes the model."""
    model.set_friendly_name(name)
    for port, port_name in ((model.inputs[0], INPUT), (model.outputs[0], output)):
        port.get_tensor().set_names({port_name})
    model.get_parameters()[0].set_friendly_name(INPUT)
    model.get_results()[0].set_friendly_name(f"{output}/result")
