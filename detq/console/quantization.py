"""What quantization made of a model."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from detq.api import Comparison, QuantizationResult
from detq.console.classes import print_classes
from detq.console.numbers import number, ratio
from detq.console.scores import note_left_out, print_scores, scores_document
from detq.console.speed import busy
from detq.console.terminal import note, stdout, warn
from detq.cores import core_count, is_x86
from detq.quickstart import Quickstart
from detq.tasks import strategy_of


def print_quantization(
    comparison: Comparison, directory: Path, *, rounds: int, per_class: bool = False
) -> None:
    """Scores, latency (medians of ``rounds`` inferences), decisions, and what to be careful of."""
    strategy = strategy_of(comparison.result.graph.spec)
    metric, _ = strategy.COLUMNS[0]
    for recipe, reason in comparison.left_out.items():
        warn(f"{recipe} is left out of the comparison: {reason}")
    if comparison.scores:
        print_scores(comparison.scores, strategy.COLUMNS)
        note_left_out(comparison.split, comparison.scores[0].data)
        if per_class:
            print_classes(comparison.scores)
            stdout.print()
    else:
        warn(f"split {comparison.split} has no ground truth: {metric} was not measured")
    exact, int8 = comparison.fastest_float.speed, comparison.rows[-1].speed
    stdout.print(
        f"latency {int8.latency_ms:.2f} ms in INT8, {exact.latency_ms:.2f} ms in the fastest "
        f"float, {exact.float_precision}: {int8.speedup:.2f}x, {ratio(int8.of_f32)} of f32 "
        f"(medians of {rounds} inferences in turns, and of their ratios)",
        highlight=False,
    )
    _warn_of_speed(comparison)
    _print_decisions(comparison.result, directory)
    _warn_of_result(comparison.result)
    if comparison.overlap:
        warn(
            f"{comparison.overlap} calibration images are also in split {comparison.split}: "
            f"its {metric} flatters"
        )
    if not is_x86():
        note(
            f"what layers take was predicted for x86, not for {platform.machine()}: the accuracy "
            "above holds, but another choice of float layers may be faster"
        )


def print_passes(result: QuantizationResult) -> None:
    """The pipeline: what each pass did, with what it cost and gained, and its wall time."""
    table = Table("pass", "what it did", box=None, pad_edge=False)
    table.add_column("s", justify="right")
    for step in result.quantized.steps:
        table.add_row(step.name, escape(step.did), f"{step.seconds:.1f}")
    stdout.print(table)


def _print_decisions(result: QuantizationResult, directory: Path) -> None:
    quantized = result.quantized
    in_float = len(quantized.unfinished.in_float)
    agreement = "nothing to compare" if result.agreement is None else f"{result.agreement:.1f}%"
    where = f"{len(result.judges)} {'other' if result.held_back else 'calibration'} images"
    if result.expected_loss is not None:
        low, high = result.expected_loss
        where = f"{where} (expected loss {low:.1f} to {high:.1f} mAP)"
    stdout.print(
        f"{len(quantized.split_layers)} convolutions split, {in_float} tensors left in float, "
        f"{100 * result.int8_share:.1f}% of convolution MACs in INT8\n"
        f"agreement with float {agreement} on {where}, written to {directory}",
        highlight=False,
    )
    if result.held is not None:
        stdout.print(
            f"--max-drop: {len(result.held.returned)} tensors given back to float, "
            f"{100 * result.held.mac_share:.1f}% of the work; the drop was "
            f"{result.held.drops[0]:.2f}, is {result.held.drop:.2f}",
            highlight=False,
        )


def _warn_of_speed(comparison: Comparison) -> None:
    if comparison.is_busy:
        warn(busy(comparison.load, core_count()))
    if comparison.nearly_as_fast is not None:
        exact, int8 = comparison.fastest_float.speed, comparison.rows[-1].speed
        warn(
            f"INT8 gains little or nothing over {comparison.nearly_as_fast} here "
            f"({int8.latency_ms:.2f} and {exact.latency_ms:.2f} ms, {int8.speedup:.2f}x): keep "
            f"the float model in {comparison.nearly_as_fast}, and INT8 for machines without it"
        )


def _warn_of_result(result: QuantizationResult) -> None:
    recognised = result.float_graph.spec.reparameterized
    if result.quantized.recipe.weights.split != "none" and not recognised:
        warn("no re-parameterized convolution was recognised, so no weight was split")
    if result.calibration.skipped:
        names = ", ".join(path.name for path in result.calibration.skipped[:3])
        warn(f"{len(result.calibration.skipped)} damaged images skipped: {names}")


def quantization_document(
    comparison: Comparison,
    directory: Path,
    calibration_split: str,
    doubts: list[str],
    *,
    per_class: bool = False,
) -> dict[str, Any]:
    """The same as :func:`print_quantization`, as plain values."""
    result, rows = comparison.result, comparison.rows
    scores = scores_document(comparison.scores, comparison.split, per_class=per_class)
    return {
        "output": str(directory),
        **scores,
        "data": {
            **scores["data"],
            "calibration_split": calibration_split,
            "calibration_images": len(result.calibration),
            "damaged_calibration_images": len(result.calibration.skipped),
        },
        "int8_share": result.int8_share,
        "agreement": result.agreement,
        "latency_ms": {
            "float": rows[0].speed.latency_ms,
            "load": comparison.load,
            "fastest_float": comparison.fastest_float.speed.latency_ms,
            "int8": rows[-1].speed.latency_ms,
        },
        "load": comparison.load,
        "fastest_float": comparison.fastest_float.speed.float_precision,
        "speedup": rows[-1].speed.speedup,
        "of_f32": rows[-1].speed.of_f32,
        "nearly_as_fast": comparison.nearly_as_fast,
        "doubts": doubts,
    }


def print_quickstart(outcome: Quickstart) -> None:
    """What a quickstart measured, and where to look."""
    comparison = outcome.comparison
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    metrics = strategy_of(comparison.result.graph.spec).WORDS.metrics
    for heading in (*(heading for heading, _ in metrics), "latency ms", "speed-up", "of f32", "MB"):
        table.add_column(heading, justify="right")
    for row, quality in zip(comparison.rows, comparison.scores, strict=True):
        table.add_row(
            escape(row.label),
            *(number(quality.scores[key]) for _, key in metrics),
            f"{row.speed.latency_ms:.2f}",
            f"{row.speed.speedup:.2f}x",
            ratio(row.speed.of_f32),
            f"{quality.size_mb:.1f}",
        )
    stdout.print(table)
    images, agreement = comparison.scores[0].images, comparison.result.agreement
    stdout.print(f"{images} test scenes; INT8 agrees with float to {number(agreement, 1)}%")
    _warn_of_speed(comparison)
    for label, path in (
        ("INT8 model", outcome.model),
        ("report", outcome.report),
        ("pictures", outcome.pictures),
    ):
        stdout.print(f"{label:<10} {path}", markup=False, highlight=False)


def quickstart_document(outcome: Quickstart) -> dict[str, Any]:
    """The same as :func:`print_quickstart`, as plain values."""
    comparison = outcome.comparison
    return {
        "models": [
            {**asdict(row.speed), **quality.to_dict(), "model": row.label}
            for row, quality in zip(comparison.rows, comparison.scores, strict=True)
        ],
        "agreement": comparison.result.agreement,
        "output": str(outcome.model),
        "report": str(outcome.report),
        "pictures": str(outcome.pictures),
    }
