"""What travels with a model, and the one form that it is kept in.

``metadata.yaml`` of an exported directory, the entry ``detq`` of an ONNX file and the header of a
``.safetensors`` hold :meth:`ModelSpec.to_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from detq.contract import CONTRACTS, Contract, Task
from detq.errors import CheckpointError, DetqError
from detq.records.values import Fit, ReparamConvolution, SizeHW, placeholder_names


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a model that its tensors do not say.

    ``size_hw`` is the network input in pixels; both sides of a detector's are multiples of the
    largest stride. ``end_to_end`` detectors give one prediction per object, so that nothing is to
    be suppressed. ``fit`` is how the network was trained to see images.
    """

    name: str
    family: str
    class_names: tuple[str, ...]
    strides: tuple[int, ...]
    size_hw: SizeHW
    reparameterized: tuple[ReparamConvolution, ...] = ()
    task: Task = "detect"
    end_to_end: bool = False
    fit: Fit = "yolov6"

    def __post_init__(self) -> None:
        if not self.class_names:
            raise DetqError(f"{self.name}: a model needs at least one class name, got none")
        if not self.strides or any(stride <= 0 for stride in self.strides):
            raise DetqError(f"{self.name}: strides must be positive, got {self.strides}")
        if self.fit not in get_args(Fit):
            raise DetqError(
                f"{self.name}: fit {self.fit!r}: expected one of {', '.join(get_args(Fit))}"
            )
        if self.task not in CONTRACTS:
            raise DetqError(
                f"{self.name}: task {self.task!r}: expected one of {', '.join(CONTRACTS)}"
            )
        step = self.contract.size_step(self.strides)
        if any(side <= 0 or side % step for side in self.size_hw):
            raise DetqError(
                f"{self.name}: image size {self.size_hw[0]}x{self.size_hw[1]} (HxW) must be "
                f"positive multiples of the largest stride {step}; pass another --imgsz"
            )

    @property
    def contract(self) -> Contract:
        """What the graph of such a model gives."""
        return CONTRACTS[self.task]

    @property
    def class_count(self) -> int:
        """How many classes the model scores."""
        return len(self.class_names)

    @property
    def has_placeholder_names(self) -> bool:
        """True if the model file named no classes, so that only their order is known."""
        return self.class_names == placeholder_names(self.class_count)

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name, as values that JSON and YAML know.

        ``reparameterized`` maps the name of a convolution to its part.
        """
        parts = {convolution.name: convolution.part for convolution in self.reparameterized}
        return {**asdict(self), "reparameterized": parts}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ModelSpec:
        """What :meth:`to_dict` wrote; other keys beside its own mean nothing here.

        A field with a default may be absent. Raises CheckpointError for one that is missing or
        malformed, DetqError for values that contradict each other.
        """
        own = {field.name: document[field.name] for field in fields(cls) if field.name in document}
        parts = own.get("reparameterized")
        if isinstance(parts, Mapping):
            own["reparameterized"] = [{"name": name, "part": parts[name]} for name in parts]
        try:
            return _adapter().validate_python(own)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise CheckpointError(f"key missing or malformed ({where}: {problem['msg']})") from None


@cache
def _adapter() -> TypeAdapter[ModelSpec]:
    return TypeAdapter(ModelSpec)


def ultralytics_keys(spec: ModelSpec) -> dict[str, Any]:
    """What programs of Ultralytics read beside a model, in their words; plain values."""
    return {
        "task": spec.task,
        "stride": max(spec.strides),
        "batch": 1,
        "imgsz": list(spec.size_hw),
        "channels": 3,
        "names": dict(enumerate(spec.class_names)),
    }
