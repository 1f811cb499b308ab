"""An ONNX file -> a protobuf that is safe to convert: bounded, complete, and valid by ONNX's rules.

OpenVINO trusts what it converts: a convolution without weights ends its process, a node that reads
its own output keeps it busy for ever. So the file is checked before it gets there. Data outside the
file is read by us, through symbolic links too, as model hubs keep it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path, PurePosixPath

import onnx
import openvino as ov
from google.protobuf.message import DecodeError
from onnx import external_data_helper

from detq.errors import CheckpointError, shown
from detq.files import in_place_of, open_regular, read_bytes
from detq.graph.execute import core
from detq.graph.preparation import Preparation, preparation

MAX_FILE_BYTES = (2 << 30) - 1
"""What protobuf can hold."""
MAX_NODES = 50_000
MAX_DIMENSIONS = 8
MAX_ATTRIBUTE = 1 << 31
"""No stride, padding or axis of a detector comes near."""


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model with all its data. Raises CheckpointError, naming the file and what is wrong."""
    try:
        content = read_bytes(path, most_bytes=MAX_FILE_BYTES)
    except OSError as error:
        reason = "no such file; check the path" if isinstance(error, FileNotFoundError) else None
        raise CheckpointError(f"{path}: {reason or f'cannot be read ({error.strerror})'}") from None
    if instead := in_place_of(content[:64]):
        raise CheckpointError(f"{path}: not a readable ONNX model but {instead}")
    if content.startswith(b"PK\x03\x04"):
        raise CheckpointError(
            f"{path}: not a readable ONNX model (a zip archive, as torch writes checkpoints); if "
            "it is one, let its name end in .pt"
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except (DecodeError, RecursionError, ValueError) as error:
        raise _unreadable(path, str(error)) from None
    if not proto.graph.node or not proto.graph.output:
        raise _unreadable(path, "no graph in it")
    if sum(1 for _ in _nodes(proto.graph)) > MAX_NODES:
        raise _unreadable(path, f"more than {MAX_NODES} nodes")
    for tensor in _tensors(proto.graph):
        if external_data_helper.uses_external_data(tensor):
            _load_external(tensor, path)
        _check_tensor(tensor, path)
    _sort_nodes(proto.graph, path)
    return proto


def check_onnx(proto: onnx.ModelProto, path: Path) -> None:
    """Raise CheckpointError unless the graph is valid by ONNX's rules; leaves it as it is.

    Operations of other domains (TensorRT's suppressions) are unknown to these: cut them off before.
    """
    for node in _nodes(proto.graph):
        for attribute in node.attribute:
            numbers = [attribute.i, *attribute.ints]
            if any(not -MAX_ATTRIBUTE < number <= MAX_ATTRIBUTE for number in numbers) and (
                node.op_type != "Slice"  # whose ends say "as far as it goes" by the largest number
            ):
                raise _unreadable(path, f"{attribute.name} of {shown(node.name)} is out of range")
    # An output may leave its shape open. The rules ask for one, though not whether it is right.
    types = [port.type.tensor_type for port in proto.graph.output]
    open_ended = [kind for kind in types if not kind.HasField("shape")]
    for kind in open_ended:
        kind.shape.SetInParent()
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise _unreadable(path, str(error).split("==>")[0]) from None
    finally:
        for kind in open_ended:
            kind.ClearField("shape")


def metadata_of(proto: onnx.ModelProto) -> dict[str, str]:
    """What the file says about itself beside its graph."""
    return {entry.key: entry.value for entry in proto.metadata_props}


def converted(proto: onnx.ModelProto, path: Path) -> tuple[ov.Model, Preparation]:
    """A checked graph as OpenVINO has it, and what it does to its input, which the conversion may
    hide in weights. Raises CheckpointError.
    """
    content = proto.SerializeToString()
    try:
        built_in = preparation(core().read_model(io.BytesIO(content)))
        return ov.convert_model(io.BytesIO(content)), built_in
    except Exception as error:  # the converter's errors have no common root
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path}: not a readable ONNX model ({lines[-1]})") from None


def _unreadable(path: Path, reason: str) -> CheckpointError:
    line = " ".join(reason.split())
    return CheckpointError(
        f"{path}: not a readable ONNX model ({line[:400]}); download it, or export it, again"
    )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of those inside its nodes (If, Loop)."""
    for node in graph.node:
        yield node
        for inner in _inner_graphs(node):
            yield from _nodes(inner)


def _inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Its branches or its body."""
    for attribute in node.attribute:
        yield from (attribute.g, *attribute.graphs)


def _sort_nodes(graph: onnx.GraphProto, path: Path) -> None:
    """Nodes behind those whose outputs they read; changes a graph that is otherwise.

    ONNX asks for this order, ONNX Runtime does not, and its conversion to half precision writes
    casts of the input to the end.
    """
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = {
        index: sorted(makers[name] for name in _reads(node) if name in makers)
        for index, node in enumerate(graph.node)
    }
    if all(before < index for index, several in needs.items() for before in several):
        return
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        names = [shown(graph.node[index].name) for index in error.args[1]]
        raise _unreadable(path, f"{names[0]} reads its own output") from None
    nodes = [graph.node[index] for index in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _reads(node: onnx.NodeProto) -> set[str]:
    """What a node reads, and what those inside it read from outside."""
    found = set(node.input)
    for graph in _inner_graphs(node):
        own = {entry.name for entry in (*graph.input, *graph.initializer)}
        own.update(name for each in graph.node for name in each.output)
        found.update(*(_reads(each) - own for each in graph.node))
    return found


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            yield from chain([attribute.t] if attribute.HasField("t") else [], attribute.tensors)
        for inner in _inner_graphs(node):
            yield from _tensors(inner)


def _check_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    """Shape and data agree; the converter would read beyond them."""
    name = shown(tensor.name)
    if len(tensor.dims) > MAX_DIMENSIONS or any(side < 0 for side in tensor.dims):
        raise _unreadable(path, f"tensor {name} has the shape {shown(list(tensor.dims))}")
    if not tensor.HasField("raw_data"):
        return  # typed fields are checked by onnx.checker
    count = math.prod(tensor.dims)
    try:
        bits = _bits(tensor.data_type)
    except (KeyError, TypeError, ValueError):
        raise _unreadable(path, f"tensor {name} is of type {tensor.data_type}") from None
    if len(tensor.raw_data) != -(-count * bits // 8):
        raise _unreadable(
            path, f"tensor {name} has {len(tensor.raw_data)} bytes for {shown(list(tensor.dims))}"
        )


def _bits(data_type: int) -> int:
    name = onnx.TensorProto.DataType.Name(data_type)
    if name in ("INT4", "UINT4", "FLOAT4E2M1"):
        return 4
    if name in ("INT2", "UINT2"):
        return 2
    return 8 * int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def _load_external(tensor: onnx.TensorProto, path: Path) -> None:
    """Put the tensor's data into the model; changes it.

    The file lies beside the model, or beside what a symbolic link to the model stands for.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = PurePosixPath(entries.get("location", "").replace("\\", "/"))
    if location.is_absolute() or ".." in location.parts or not location.parts:
        raise _unreadable(path, f"its data lies at {shown(str(location))}, outside its folder")
    folders = dict.fromkeys([path.parent, path.resolve().parent])
    found = next((folder / location for folder in folders if (folder / location).exists()), None)
    if found is None:
        raise CheckpointError(
            f"{path}: its weights are in {location}, which is not beside it; put that file there, "
            "or export the model again in one file"
        )
    try:
        with open_regular(found) as file:
            size = file.seek(0, 2)
            start, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
            length = size - start if length < 0 else length
            if start < 0 or start + length > size:
                raise CheckpointError(
                    f"{found}: has {size} bytes, {path.name} wants {start + length}; it is cut "
                    "short or of another model: download both again"
                )
            file.seek(start)
            tensor.raw_data = file.read(length)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"{found}: cannot be read ({reason}); check the file") from None
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
