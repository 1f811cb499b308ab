"""``runtime.json`` beside an exported model: how it is fastest on one machine.

Whoever copies the directory to another machine, or renews OpenVINO, has the defaults again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import openvino as ov
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detq.cores import core_count
from detq.errors import ArtifactError
from detq.files import atomic_write, read_text
from detq.runtime.machine import cpu_features, cpu_name
from detq.runtime.options import RuntimeOptions

FILE = "runtime.json"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    streams: int | None = Field(None, ge=1, le=1024)
    pinning: bool | None = None
    float_precision: Literal["f32", "bf16", "f16"] = "f32"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    made_on: dict[str, str | int | list[str]]
    settings: _Settings


def tuned_settings(options: RuntimeOptions) -> dict[str, Any]:
    """What of some options is tuned, and kept, by name."""
    return {key: getattr(options, key) for key in _Settings.model_fields}


def write_tuned(directory: Path, options: RuntimeOptions) -> Path:
    """Keep the options for this machine; returns the file. Raises ArtifactError."""
    document = _Document(made_on=_here(), settings=_Settings(**tuned_settings(options)))
    path = directory / FILE
    try:
        atomic_write(path, f"{json.dumps(document.model_dump(), indent=2)}\n".encode())
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def read_tuned(directory: Path) -> RuntimeOptions | None:
    """Those of this machine, also for the ``.xml`` in a directory; None if there are none.

    Raises ArtifactError for a damaged file.
    """
    path = (directory.parent if directory.suffix == ".xml" else directory) / FILE
    if not path.exists():
        return None
    try:
        document = _Document.model_validate_json(read_text(path))
    except (ValidationError, OSError) as error:
        problem = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise ArtifactError(
            f"{path}: not what `detq bench --tune` writes ({problem}); delete it, or tune again"
        ) from None
    if document.made_on != _here():
        return None
    return RuntimeOptions(**document.settings.model_dump())


def _here() -> dict[str, str | int | list[str]]:
    """What the fastest settings depend on."""
    return {
        "cpu": cpu_name(),
        "features": list(cpu_features()),
        "cores": core_count(),
        "openvino": str(ov.__version__),
    }
