"""The exported directory: an OpenVINO IR with everything needed to run and to trust it.

``<name>_int8_openvino_model/`` holds ``<name>.xml``, ``<name>.bin``, ``report.html`` for a person,
and ``metadata.yaml``: the keys that Ultralytics' ``YOLO("…_openvino_model/")`` reads, plus a
``detq`` section. It is written to a temporary sibling and moved into place, so that a killed run
leaves the old directory or the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import openvino as ov
import yaml

from detq.errors import ArtifactError, CheckpointError, ConfigError, shown
from detq.files import staged, text_stem
from detq.graph.convert import from_ir, read_ir
from detq.graph.detector_graph import DetectorGraph
from detq.graph.model_info import with_model_info
from detq.graph.saving import METADATA, check_creatable, save_graph, writing
from detq.graph.trust import trust
from detq.records import ModelSpec, ultralytics_keys
from detq.runtime.postprocess import PREDICTION
from detq.tasks import strategy_of
from detq.yaml_file import read_yaml

REPORT = "report.html"
SAID_ABOVE = ("name", "class_names", "size_hw", "task")
"""Fields of a spec that the file's name and Ultralytics' keys hold: the section leaves them out."""


def write_artifact(
    graph: DetectorGraph,
    directory: Path,
    *,
    details: Mapping[str, Any] | None = None,
    report: str | None = None,
) -> None:
    """Write the directory, replacing one that detq or Ultralytics wrote before.

    ``details`` (plain YAML values) are added to the ``detq`` section; ``report`` becomes
    ``report.html``. Raises ArtifactError if the directory cannot be written, or if something else
    is in its place.
    """
    check_writable(directory)
    with writing(directory), staged(directory.resolve()) as staging:
        staging.mkdir()
        save_graph(_named(graph), staging / f"{graph.spec.name}.xml")
        metadata = _metadata(graph.spec, details or {})
        text = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=100)
        (staging / METADATA).write_text(text, encoding="utf-8")
        if report is not None:
            (staging / REPORT).write_text(report, encoding="utf-8", errors="xmlcharrefreplace")
    trust(directory / f"{graph.spec.name}.xml")


def read_artifact(path: Path, *, layout: str | None = None) -> DetectorGraph:
    """An exported directory, or the ``.xml`` in one -> its detector graph.

    Reads what detq writes. What Ultralytics exports, and an IR alone, are recognised by what their
    outputs mean, as ONNX files are; ``layout`` says it where they leave it open. Raises
    CheckpointError where something is missing or wrong.
    """
    xml = path if path.suffix == ".xml" else _only_xml(path)
    metadata_path = xml.parent / METADATA
    if not xml.is_file() or not xml.with_suffix(".bin").is_file():
        raise CheckpointError(f"{xml}: needs both the .xml and the .bin file beside it")
    if not metadata_path.exists():
        try:
            return _recognised(xml, None, layout)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; no {METADATA} beside it says what it is") from None
    metadata = _read_metadata(metadata_path)
    if "gives" in (metadata.get("detq") or {}):
        raise CheckpointError(
            f"{xml}: goes from pixels to boxes, for other programs; pass what it was exported from"
        )
    spec = _spec(xml, metadata, metadata_path)
    if layout is None and (metadata.get("detq") or _obeys_contract(xml, spec)):
        return from_ir(xml, spec)
    if metadata.get("detq"):
        raise ConfigError(f"{xml}: its metadata says what its outputs mean; leave out --layout")
    graph = _recognised(xml, {"names": repr(list(spec.class_names))}, layout)
    return DetectorGraph(graph.model, replace(graph.spec, family=spec.family, fit=spec.fit))


def _recognised(xml: Path, metadata: Mapping[str, str] | None, layout: str | None) -> DetectorGraph:
    """A graph of another program; what detq wrote does without importing onnx for this."""
    from detq.graph.foreign import from_bare_ir  # noqa: PLC0415

    return from_bare_ir(xml, metadata, layout=layout)


def _obeys_contract(xml: Path, spec: ModelSpec) -> bool:
    """True for [B, 4 + nc, N], which is what most networks of Ultralytics give, and for classes."""
    shape, contract = read_ir(xml).outputs[0].get_partial_shape(), spec.contract
    rows = ov.Dimension(contract.begin(spec.class_count)[1])
    return not contract.has_places or bool(
        len(shape) == contract.rank and shape[1].compatible(rows)
    )


def read_details(path: Path) -> Mapping[str, Any]:
    """The ``detq`` section of an exported directory's metadata; empty if another tool wrote it."""
    metadata_path = (path.parent if path.suffix == ".xml" else path) / METADATA
    if not metadata_path.exists():
        return {}
    details = _read_metadata(metadata_path).get("detq")
    return details if isinstance(details, dict) else {}


def check_writable(directory: Path) -> None:
    """Raise ArtifactError unless :func:`write_artifact` may write there: before the work, not
    after.
    """
    if directory.exists() and not _replaceable(directory):
        raise ArtifactError(
            f"{directory}: exists and is not an exported model; remove it or pass another --output"
        )
    check_creatable(directory)


def _replaceable(directory: Path) -> bool:
    """An exported model, or an empty directory: nothing else may get lost."""
    if not directory.is_dir():
        return False
    exported = (directory / METADATA).is_file() and any(directory.glob("*.xml"))
    return exported or not any(directory.iterdir())


def _named(graph: DetectorGraph) -> ov.Model:
    confidence, iou = PREDICTION.confidence, PREDICTION.iou or 1.0
    return with_model_info(graph.model, graph.spec, confidence=confidence, iou=iou)


def _metadata(spec: ModelSpec, details: Mapping[str, Any]) -> dict[str, Any]:
    """Ultralytics' keys, and the section ``detq`` with what they do not say of the spec."""
    own = {key: value for key, value in spec.to_dict().items() if key not in SAID_ABOVE}
    return {
        "description": f"{spec.name}, exported by detq",
        "author": "detq",
        "version": version("detq"),
        **ultralytics_keys(spec),
        "detq": {
            "schema": 1,
            **own,
            "preprocess": {
                "colors": "RGB",
                "scale": "1/255",
                **strategy_of(spec).preprocess_keys(spec),
            },
            "versions": _versions("detq", "openvino", "nncf", "numpy"),
            **details,
        },
    }


def _versions(*packages: str) -> dict[str, str]:
    """Of those that are installed: NNCF is not where models only run."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _only_xml(directory: Path) -> Path:
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such file or directory; check the path")
    found = sorted(directory.glob("*.xml"))
    if len(found) != 1:
        raise CheckpointError(
            f"{directory}: expected one .xml, found {len(found)}; pass a directory that "
            "`detq quantize` wrote, or the .xml itself"
        )
    return found[0]


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        return read_yaml(path, text_under=("names",))
    except ConfigError as error:
        raise CheckpointError(f"{error}; export the model again") from None


def _spec(xml: Path, metadata: dict[str, Any], source: Path) -> ModelSpec:
    """Ultralytics' keys, which a person may have edited, win over what the section says."""
    try:
        document = {**_section(metadata), **_from_above(metadata), "name": text_stem(xml)}
        return ModelSpec.from_dict(document)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}; export the model again") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{source}: key missing or malformed ({shown(error)}); export the model again"
        ) from None


def _section(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``detq``; what Ultralytics' exports mean where there is none.

    Earlier versions of detq kept the fit under ``preprocess`` alone, or none.
    """
    theirs = {"family": "ultralytics", "strides": [metadata["stride"]], "fit": "ultralytics"}
    details = metadata.get("detq")
    if not details:
        return theirs
    return {**theirs, "fit": details.get("preprocess", {}).get("fit", "yolov6"), **details}


def _from_above(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The fields :data:`SAID_ABOVE`, from Ultralytics' keys."""
    names = metadata["names"]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        raise TypeError(f"names: {shown(names)}")
    return {
        "class_names": [names[index] for index in range(len(names))],
        "size_hw": metadata["imgsz"],
        "task": metadata.get("task", "detect"),
    }
