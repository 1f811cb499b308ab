"""detq's own model file: a network in training form as safetensors, its description in the header.

Tensors only, nothing to execute. The header's entry ``detq`` is a JSON document: the architecture
with every width and depth, the class names, the image size. A tensor whose every value is a half
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
from detq.errors import ArtifactError, CheckpointError, DetqError
from detq.files import atomic_write
from detq.models.architecture import AnyArchitecture, LiteArchitecture, YOLOv6Architecture
from detq.models.classifiers import ChainClassifier, ClassifierArchitecture
from detq.models.yolov6 import build
from detq.records import SizeHW

SUFFIX = ".safetensors"
HEADER_KEY = "detq"
SCHEMA: Literal[1] = 1
_NEXT_STEP = "pass a file that `detq convert` wrote"


@dataclass(frozen=True)
class Header:
    """What the tensors do not say."""

    schema: Literal[1]
    kind: Literal["yolov6", "yolov6-lite", "classifier"]
    architecture: dict[str, Any]
    class_names: tuple[str, ...]
    size_hw: SizeHW

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
    header = Header(
        schema=SCHEMA,
        kind=_kind(model.architecture),
        architecture=asdict(model.architecture),
        class_names=model.class_names,
        size_hw=model.size_hw,
    )
    tensors = {
        key: _compact(tensor)
        for key, tensor in model.module.state_dict().items()
        if not key.endswith(COUNTER)
    }
    try:
        atomic_write(path, save(tensors, metadata={HEADER_KEY: json.dumps(asdict(header))}))
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: cannot be written ({error}); pass another path") from None


def read_safetensors(path: Path) -> StoredModel:
    """Read a file that :func:`write_safetensors` wrote.

    Raises CheckpointError, naming the file, if it is missing, damaged, or of another program.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = _parse(file.metadata() or {})
            architecture = header.read_architecture()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        return StoredModel(
            module=_network(architecture, header, tensors),
            architecture=architecture,
            class_names=header.class_names,
            size_hw=header.size_hw,
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


def _kind(
    architecture: AnyArchitecture | ClassifierArchitecture,
) -> Literal["yolov6", "yolov6-lite", "classifier"]:
    if isinstance(architecture, ClassifierArchitecture):
        return "classifier"
    return "yolov6-lite" if isinstance(architecture, LiteArchitecture) else "yolov6"


def _parse(metadata: Mapping[str, str]) -> Header:
    if HEADER_KEY not in metadata:
        raise CheckpointError(f"does not say what network its tensors are of; {_NEXT_STEP}")
    return TypeAdapter(Header).validate_json(metadata[HEADER_KEY])


def _network(
    architecture: AnyArchitecture | ClassifierArchitecture,
    header: Header,
    tensors: Mapping[str, Tensor],
) -> nn.Module:
    if len(header.class_names) != architecture.class_count:
        raise CheckpointError(
            f"{len(header.class_names)} class names for {architecture.class_count} classes"
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
