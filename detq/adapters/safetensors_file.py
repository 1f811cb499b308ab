"""detq's own model file: a network in training form as safetensors, its description in the header.

Tensors only, nothing to execute. The header's entry ``detq`` is a JSON document: the architecture
with every width and depth, and the model's :class:`ModelSpec`. A tensor whose every value is a half
precision number is stored as one: a converted YOLOv6 checkpoint is no larger, and loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from detq.adapters.stored_model import StoredModel
from detq.adapters.tensors import COUNTER, check_values, fill
from detq.contract import Task
from detq.errors import ArtifactError, CheckpointError, DetqError
from detq.files import atomic_write, text_stem
from detq.models.architecture import AnyArchitecture, LiteArchitecture, YOLOv6Architecture
from detq.models.classifiers import ChainClassifier, ClassifierArchitecture
from detq.models.yolov6 import build
from detq.records import ModelSpec

Kind = Literal["yolov6", "yolov6-lite", "classifier"]
_TASKS: Mapping[Kind, Task] = {
    "yolov6": "detect",
    "yolov6-lite": "detect",
    "classifier": "classify",
}
SUFFIX = ".safetensors"
HEADER_KEY = "detq"
SCHEMA: Literal[1] = 1
_NEXT_STEP = "pass a file that `detq convert` wrote"


@dataclass(frozen=True)
class Header:
    """What the tensors do not say of the network. Beside its keys lie those of a spec."""

    schema: Literal[1]
    kind: Kind
    architecture: dict[str, Any]

    def read_architecture(self) -> AnyArchitecture | ClassifierArchitecture:
        """The architecture as a checked value. Raises ValidationError or DetqError."""
        if self.kind == "classifier":
            return TypeAdapter(ClassifierArchitecture).validate_python(self.architecture)
        if self.kind == "yolov6":
            return TypeAdapter(YOLOv6Architecture).validate_python(self.architecture)
        return TypeAdapter(LiteArchitecture).validate_python(self.architecture)


def write_safetensors(model: StoredModel, path: Path) -> None:
    """Write the file, replacing one of that name in one step.

    Raises ArtifactError if it cannot be written.
    """
    if path.suffix.lower() != SUFFIX:
        raise ArtifactError(f"{path}: the name of a model file ends in {SUFFIX}")
    if not isinstance(model.architecture, AnyArchitecture | ClassifierArchitecture):
        raise ArtifactError(
            f"{path}: networks of Ultralytics are not written as {SUFFIX}; keep the checkpoint"
        )
    header = Header(SCHEMA, _kind(model.architecture), asdict(model.architecture))
    spec = ModelSpec(
        name=text_stem(path),
        family=model.architecture.family,
        class_names=model.class_names,
        strides=model.architecture.strides,
        size_hw=model.size_hw,
        task=model.architecture.task,
    )
    document = json.dumps({**asdict(header), **spec.to_dict()})
    tensors = {
        key: _compact(tensor)
        for key, tensor in model.module.state_dict().items()
        if not key.endswith(COUNTER)
    }
    try:
        atomic_write(path, save(tensors, metadata={HEADER_KEY: document}))
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: cannot be written ({error}); pass another path") from None


def read_safetensors(path: Path) -> StoredModel:
    """Read a file that :func:`write_safetensors` wrote.

    Raises CheckpointError, naming the file, if it is missing, damaged, or of another program.
    """
    try:
        with safe_open(path, framework="pt") as file:
            document = _document(file.metadata() or {})
            header = TypeAdapter(Header).validate_json(document)
            architecture = header.read_architecture()
            spec = _spec(json.loads(document), header.kind, architecture)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        return StoredModel(
            module=_network(architecture, spec, tensors),
            architecture=architecture,
            class_names=spec.class_names,
            size_hw=spec.size_hw,
        )
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); check the path") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged or no safetensors file ({error})") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(step) for step in problem["loc"])
        raise CheckpointError(
            f"{path}: its description is malformed ({where}: {problem['msg']}); {_NEXT_STEP}"
        ) from None
    except DetqError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _kind(architecture: AnyArchitecture | ClassifierArchitecture) -> Kind:
    if isinstance(architecture, ClassifierArchitecture):
        return "classifier"
    return "yolov6-lite" if isinstance(architecture, LiteArchitecture) else "yolov6"


def _document(metadata: Mapping[str, str]) -> str:
    if HEADER_KEY not in metadata:
        raise CheckpointError(f"does not say what network its tensors are of; {_NEXT_STEP}")
    return metadata[HEADER_KEY]


def _spec(
    document: Mapping[str, Any], kind: Kind, architecture: AnyArchitecture | ClassifierArchitecture
) -> ModelSpec:
    """The spec in a header; earlier versions of detq wrote class names and size alone."""
    implied = {"name": kind, "family": kind, "strides": architecture.strides, "task": _TASKS[kind]}
    try:
        spec = ModelSpec.from_dict({**implied, **document})
    except CheckpointError as error:
        raise CheckpointError(f"its description is malformed: {error}; {_NEXT_STEP}") from None
    if spec.strides != architecture.strides:
        raise CheckpointError(f"its description is of another network; {_NEXT_STEP}")
    return spec


def _network(
    architecture: AnyArchitecture | ClassifierArchitecture,
    spec: ModelSpec,
    tensors: Mapping[str, Tensor],
) -> nn.Module:
    if spec.class_count != architecture.class_count:
        raise CheckpointError(
            f"{spec.class_count} class names for {architecture.class_count} classes"
        )
    if _depth(architecture) > len(tensors):  # building so many blocks would take for ever
        raise CheckpointError("the description has more blocks than the file has tensors")
    for key, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"tensor {key} holds {tensor.dtype}, expected floating point")
        check_values(key, tensor)
    with torch.device("meta"):  # shapes only: a lying file cannot make us allocate
        if isinstance(architecture, ClassifierArchitecture):
            module: nn.Module = ChainClassifier(architecture)
        else:
            module = build(architecture)
    fill(module, {key: tensor.float() for key, tensor in tensors.items()})
    return module.eval().requires_grad_(False)


def _depth(architecture: AnyArchitecture | ClassifierArchitecture) -> int:
    if isinstance(architecture, ClassifierArchitecture):
        return sum(max(layer.branches, 1) for layer in architecture.layers)
    stages = architecture.backbone
    if isinstance(architecture, YOLOv6Architecture):
        stages = architecture.stages
    return sum(stage.depth for stage in stages)


def _compact(tensor: Tensor) -> Tensor:
    """In half precision if that loses nothing."""
    tensor = tensor.detach().cpu().contiguous()
    half = tensor.half()
    return half if torch.equal(half.float(), tensor.float()) else tensor
