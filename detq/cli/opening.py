"""Opening what a command names, with what there is to say about it on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detq import api
from detq.api.sources import modules_for
from detq.config import DatasetConfig
from detq.console.terminal import note, warn
from detq.errors import ConfigError
from detq.extras import EXTRAS, require
from detq.graph.detector_graph import DetectorGraph
from detq.graph.layouts import LAYOUTS
from detq.progress import Progress
from detq.runtime.devices import CPU
from detq.runtime.tuned import FILE
from detq.tasks import strategy_of


def check_quantizer(command: str, model: Path) -> None:
    """Raise MissingLibraryError unless all is installed that quantizing this model takes."""
    require(f"detq {command}", *EXTRAS["quantize"], *modules_for(model))


def check_classes(graph: DetectorGraph, *, wanted: bool) -> None:
    """Raise ConfigError where ``--per-class`` is wanted of what finds no boxes."""
    if wanted and not strategy_of(graph.spec).FINDS_BOXES:
        raise ConfigError("--per-class: is for detectors; leave it out")


def open_data(data: Path, report: Progress) -> DatasetConfig:
    """The data set, with its reader's notes."""
    dataset = api.load_dataset(data, progress=report)
    for line in dataset.notes:
        note(line)
    return dataset


def options_for(model: Path, device: str) -> api.RuntimeOptions:
    """How a model runs there, on the CPU as it was tuned; tells if that changes what is found."""
    tuned = api.tuned_options(model) if device == CPU else None
    if tuned is not None and tuned.float_precision != "f32":
        note(
            f"{model}: what is not quantized computes in {tuned.float_precision}, as its "
            f"{FILE} says; delete that for float32"
        )
    return tuned or api.RuntimeOptions(device=device)


def tell_found(model: Path, graph: DetectorGraph) -> None:
    """What was read out of an ONNX file, which says little by itself."""
    if model.suffix == ".onnx":
        spec = graph.spec
        note(
            f"{model}: layout {spec.family}, {spec.class_count} classes, "
            f"{len(spec.reparameterized)} re-parameterized convolutions found"
            f"{_layouts_note(spec.family)}"
        )


def _layouts_note(family: str) -> str:
    said = LAYOUTS[family].note if family in LAYOUTS else None
    return f"; {said}" if said else ""


def warn_of_doubts(
    graphs: Mapping[Path, DetectorGraph], dataset: DatasetConfig, split: str
) -> list[str]:
    """Warn of models whose figures would mean nothing; the warnings."""
    doubts = [
        api.doubt(graph, data=dataset, split=split, model=model) for model, graph in graphs.items()
    ]
    found = [doubt for doubt in doubts if doubt is not None]
    for doubt in found:
        warn(doubt)
    return found
