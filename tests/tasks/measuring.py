"""A third task, as somebody who adds one would write it: how much of each colour an image shows."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detq.config import DatasetConfig
from detq.contract import Contract
from detq.data.centre_crop import CentreCrop
from detq.data.dataset import Split, load_split
from detq.data.images import ImageBGR, read_images
from detq.evaluation.evaluator import Runner
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Steps
from detq.records import EvalResult, ModelSpec, Ranking
from detq.report.disagreement import Difference
from detq.report.words import Words
from detq.runtime.detector import CompiledGraph
from detq.runtime.options import RuntimeOptions
from detq.tasks.strategy import Finder, Reader

CONTRACT = Contract(output="shares", rows=0, has_places=False, use="measures colours")
COLUMNS = (("close", "closeness"),)
WORDS = Words(COLUMNS, differences="", alike="shares")
FINDS_BOXES = False
Seen = list[np.ndarray]


def preprocess(spec: ModelSpec) -> CentreCrop:
    return CentreCrop(spec.size_hw)


def preprocess_keys(spec: ModelSpec) -> dict[str, Any]:
    return {"resize": "shorter side"}


def named(spec: ModelSpec, data: DatasetConfig) -> ModelSpec:
    return spec


def compiled(graph: DetectorGraph) -> CompiledGraph:
    return CompiledGraph(graph)


def run(network: CompiledGraph, paths: Sequence[Path], *, progress: Steps | None = None) -> Seen:
    place = preprocess(network.spec).place
    return [network.infer(place(image)[0])[0] for image in read_images(paths)]


def agreement(reference: Seen, candidate: Seen, *, class_count: int) -> float | None:
    return float(100 - 100 * np.abs(np.array(reference) - np.array(candidate)).mean())


def is_certain(network: CompiledGraph, seen: Seen) -> bool:
    return True


def differences(
    exact: DetectorGraph, rounded: DetectorGraph, images: Split
) -> Sequence[Difference]:
    return []


def has_ground_truth(data: DatasetConfig, split: str) -> bool:
    return True


def check_classes(spec: ModelSpec, data: DatasetConfig, split: str) -> None:
    """There are none."""


def evaluate(
    graph: DetectorGraph,
    data: DatasetConfig,
    split: str,
    *,
    preset: str | None = None,
    options: RuntimeOptions | None = None,
    rect: bool = False,
    runner: Runner | None = None,
    progress: Steps | None = None,
) -> EvalResult:
    paths = load_split(data, split, with_annotations=False).paths
    network = CompiledGraph(graph, options=options)
    truth = [image[..., ::-1].mean((0, 1)) / 255 for image in read_images(paths)]
    close = agreement(truth, run(network, paths), class_count=3)
    precision = network.executed_precision
    return EvalResult(graph.spec.name, {"closeness": close}, len(paths), 0.1, precision, 0.1)


def doubt(
    graph: DetectorGraph,
    data: DatasetConfig,
    split: str,
    *,
    model: Path | None,
    read: Reader,
) -> str | None:
    return None


def finder(
    graph: DetectorGraph,
    *,
    confidence: float,
    iou: float,
    rect: bool,
    options: RuntimeOptions | None,
) -> Finder:
    network = CompiledGraph(graph, options=options)

    def find(images: Iterable[ImageBGR]) -> Generator[tuple[ImageBGR, Ranking]]:
        for image in images:
            shares = network.infer(preprocess(graph.spec).place(image)[0])[0]
            order = np.argsort(-shares)
            yield image, Ranking(order.astype(np.int64), shares[order].astype(np.float32))

    return find


def blind(graph: DetectorGraph, paths: Sequence[Path]) -> str | None:
    return None
