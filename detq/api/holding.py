"""Holding what INT8 may cost: layers go back to float until it costs no more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from detq.api.judging import agreement
from detq.api.quantization import QuantizationResult, reported
from detq.api.running import evaluate
from detq.api.sources import DataSource, open_dataset
from detq.evaluation.protocol import find_protocol
from detq.graph.detector_graph import DetectorGraph
from detq.graph.digest import digest
from detq.progress import Progress, silent
from detq.quant.accuracy_control import DropMemory, control_accuracy
from detq.tasks import strategy_of


@dataclass(frozen=True)
class MaxDrop:
    """How much accuracy INT8 may cost: so many ``percent``, found within ``limit_s`` seconds.

    ``memory`` is a file that lets a search cut off by that, or by anything else, go on.
    """

    percent: float
    limit_s: float = 3600.0
    memory: Path | None = None


def hold_accuracy(
    result: QuantizationResult,
    max_drop: MaxDrop,
    *,
    data: DataSource,
    split: str = "val",
    preset: str | None = None,
    progress: Progress | None = None,
) -> QuantizationResult:
    """Give layers back to float, the most useful first, until INT8 loses at most ``max_drop``.

    The drop is float mAP (a classifier's top-1) minus INT8 mAP on ``split``, in percent; for a data
    set without ground truth there, 100 minus the agreement. Raises AccuracyError if it cannot be
    held.
    """
    report, float_graph = progress or silent, result.float_graph
    strategy, chosen = strategy_of(float_graph.spec), open_dataset(data)
    preset = find_protocol(preset, float_graph.spec).name
    is_named = getattr(chosen, split, None) is not None
    labelled = is_named and strategy.has_ground_truth(chosen, split)

    def measure(graph: DetectorGraph) -> float:
        if labelled:
            found = evaluate(graph, data=chosen, split=split, preset=preset, progress=report)
            return found.score or 0.0
        return agreement(float_graph, strategy.compiled(graph), result.judges, report) or 0.0

    exact = measure(float_graph) if labelled else 100.0
    recipe = result.quantized.recipe.model_dump_json()
    key = f"{recipe} {result.calibration_fingerprint} {split} {preset} {digest(float_graph.model)}"
    held = control_accuracy(
        result.quantized,
        lambda stage, count: reported(result.calibration, stage, count, report),
        lambda graph: exact - measure(graph),
        max_drop=max_drop.percent,
        limit_s=max_drop.limit_s,
        memory=DropMemory(max_drop.memory, key),
        progress=report,
    )
    int8 = strategy.compiled(held.quantized.graph)
    return replace(
        result,
        quantized=held.quantized,
        agreement=agreement(float_graph, int8, result.judges, report),
        int8_share=int8.int8_share,
        held=held,
    )
