"""A detector graph as an ONNX file: float, or with QuantizeLinear and DequantizeLinear.

Ranges, zero points, rounded weights and corrected biases are those of the graph. Runtimes that know
QDQ graphs (ONNX Runtime, OpenVINO, TensorRT for symmetric ranges) compute it in INT8; a
toolchain that quantizes for itself takes the float graph, whose splits then do their work there.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
from onnx import TensorProto, helper
from openvino import opset15 as ops

from detq.contract import INPUT
from detq.errors import ArtifactError, GraphError
from detq.files import atomic_write
from detq.graph.detector_graph import DetectorGraph
from detq.graph.model_info import model_info
from detq.graph.zero_points import restore_zero_points
from detq.onnx_export.onnx_operations import OPERATIONS
from detq.onnx_export.onnx_quantizers import stored_weight
from detq.onnx_export.onnx_writer import IR_VERSION, OPSET, OnnxWriter
from detq.records import ModelSpec, ultralytics_keys
from detq.runtime.postprocess import PREDICTION


def to_onnx(graph: DetectorGraph) -> onnx.ModelProto:
    """Write the graph operation by operation; input and output keep detq's contract and names.

    Raises GraphError for an operation or a quantizer that ONNX cannot express, by name.
    """
    model = graph.model.clone()
    restore_zero_points(model)  # QuantizeLinear has its own
    _fold_shapes(model)
    writer = OnnxWriter()
    for port in model.inputs:
        writer.bind(port, writer.name(INPUT))
    output = writer.name(graph.spec.contract.output)
    for node in model.get_ordered_ops():
        _write(writer, node)
    (result,) = model.get_results()
    writer.nodes.append(
        helper.make_node("Identity", [writer.value(result.input_value(0))], [output], output)
    )
    proto = helper.make_model(
        helper.make_graph(
            writer.nodes,
            graph.spec.name,
            [_port(INPUT, graph.model.inputs[0])],
            [_port(output, graph.model.outputs[0])],
            writer.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="detq",
        producer_version=version("detq"),
    )
    helper.set_model_props(proto, _metadata(graph.spec))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def write_onnx(graph: DetectorGraph, path: Path) -> None:
    """Write the file beside its place and move it there, so that it is whole or absent.

    Raises ArtifactError if it cannot be written, GraphError as :func:`to_onnx` does.
    """
    content = to_onnx(graph).SerializeToString()
    try:
        atomic_write(path, content)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror})") from None


def _fold_shapes(model: ov.Model) -> None:
    """Work out arithmetic on shapes, which are static here; changes the model.

    Only integers: OpenVINO's own folding would unpack INT8 weights too.
    """
    for node in model.get_ordered_ops():
        above = [port.get_node() for port in node.input_values()]
        if node.get_type_name() == "ShapeOf":
            value = np.array(node.get_input_shape(0), node.get_element_type().to_dtype())
        elif (
            not above
            or len(node.outputs()) != 1
            or any(each.get_type_name() != "Constant" for each in above)
            or node.get_output_element_type(0).is_real()
        ):
            continue
        else:
            kind, shape = node.get_output_element_type(0), node.get_output_shape(0)
            result = [ov.Tensor(kind, shape)]
            inputs = [ov.Tensor(np.ascontiguousarray(each.get_data())) for each in above]
            if not node.evaluate(result, inputs):
                continue
            value = np.array(result[0].data)
        folded = ops.constant(value)
        folded.set_friendly_name(node.get_friendly_name())
        node.output(0).replace(folded.output(0))


def _write(writer: OnnxWriter, node: ov.Node) -> None:
    kind = node.get_type_name()
    if kind in ("Parameter", "Constant", "Result"):
        return
    if all(writer.is_bound(port) for port in node.outputs()):
        return  # a bias that its convolution took along
    if _belongs_to_weight(node):
        return
    if kind not in OPERATIONS:
        raise GraphError(f"{node.get_friendly_name()}: detq writes no {kind} to ONNX")
    OPERATIONS[kind](writer, node)


def _belongs_to_weight(node: ov.Node) -> bool:
    """True for what unpacks INT8 weights: their convolution writes it as DequantizeLinear."""
    if stored_weight(node) is not None:
        return True
    users = [port.get_node() for port in node.output(0).get_target_inputs()]
    return node.get_type_name() == "Convert" and any(
        stored_weight(user) is not None for user in users
    )


def _port(name: str, port: ov.Output) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(port.get_shape()))


def _metadata(spec: ModelSpec) -> dict[str, str]:
    """What Ultralytics' and Model API's files call by these keys, and the whole specification."""
    theirs = {key: str(value) for key, value in ultralytics_keys(spec).items()}
    info = model_info(spec, confidence=PREDICTION.confidence, iou=PREDICTION.iou or 1.0)
    described = {f"model_info {key}": value for key, value in info.items()}
    return {**theirs, **described, "detq": json.dumps(spec.to_dict())}
