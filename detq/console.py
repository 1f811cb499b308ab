"""What the command line shows: progress bars on stderr, result tables on stdout, JSON documents."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import progress as bars_of
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from detq.api import Comparison, QuantizationResult
from detq.artifact import check_creatable
from detq.errors import ArtifactError
from detq.files import atomic_write
from detq.programs import ProgramSpeed
from detq.progress import Progress
from detq.quickstart import Quickstart
from detq.records import (
    BenchResult,
    Classified,
    DataCounts,
    EvalResult,
    LayerTime,
    Machine,
    Prediction,
)
from detq.report.layers import LayerReport
from detq.report.words import Metric
from detq.tasks import strategy_of

SCHEMA = 1
_LEFT_OUT = {
    "damaged_images": "damaged images left out",
    "mislabelled_images": "images left out for labels beyond 0..1",
    "unlisted_images": "images left out that the annotations do not list",
    "repeated_images": "images named twice",
    "skipped_folders": "links to a folder that was read already",
    "other_images": "images left out whose format is not read",
    "labels_without_image": "label files without an image",
    "duplicate_rows": "duplicate label rows dropped",
    "images_without_objects": "images without objects",
    "ignored_objects": "objects ignored (crowds, difficult)",
    "objects_without_area": "objects without area, which nothing can find",
}
SLOWEST = 15
"""Operations that a layer table shows one by one."""
FILE_WIDTH = 160
"""Columns when the output goes to a file or pipe; a terminal says its own."""

stdout = Console(soft_wrap=True, width=None if sys.stdout.isatty() else FILE_WIDTH)
stderr = Console(stderr=True, soft_wrap=True, width=None if sys.stderr.isatty() else FILE_WIDTH)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A callback that shows one bar per stage, made when the stage first reports.

    In a log file, where bars cannot move, it is one line per stage.
    """
    if not stderr.is_terminal:
        yield _one_line_per_stage()
        return
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with bars_of.Progress(*columns, console=stderr) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


def _one_line_per_stage() -> Progress:
    announced: set[str] = set()

    def report(stage: str, done: int, total: int) -> None:
        if stage not in announced:
            announced.add(stage)
            note(f"{stage} ({total})")

    return report


def note(message: str) -> None:
    """A line for the person, on stderr."""
    stderr.print(escape(message), highlight=False)


def warn(message: str) -> None:
    """A line that the person should not miss, on stderr."""
    stderr.print(f"[yellow]warning:[/yellow] {escape(message)}", highlight=False)


def note_left_out(split: str, counts: DataCounts) -> None:
    """One line on what of a split was left out, or counts in another way; none if there is nothing.

    What is written to ``--json`` has the same numbers.
    """
    said = [
        f"{number} {words}" for key, words in _LEFT_OUT.items() if (number := getattr(counts, key))
    ]
    if counts.damaged_files:
        names = ", ".join(counts.damaged_files[:3])
        said[0] += f" ({names}{', …' if len(counts.damaged_files) > 3 else ''})"
    if said:
        note(f"split {split}, {counts.images} images: {', '.join(said)}")


def scores_document(rows: Sequence[EvalResult], split: str) -> dict[str, Any]:
    """The rows of a table of scores, and what of the split they rest on."""
    models = [row.to_dict() for row in rows]
    counts = [model.pop("data") for model in models]
    return {"models": models, "data": {"split": split, **counts[0]} if counts else {}}


def print_scores(results: Sequence[EvalResult], columns: Sequence[Metric]) -> None:
    """One row per model; with several also the difference to the first."""
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    headings = [heading for heading, _ in columns]
    for heading in (*headings, "vs first", "images", "precision", "MB"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            escape(result.model),
            *(_number(result.scores[key]) for _, key in columns),
            _difference(result.score, results[0].score),
            str(result.images),
            result.precision,
            f"{result.size_mb:.1f}",
        )
    stdout.print(table)


def print_bench(results: Sequence[BenchResult], machine: Machine) -> None:
    """The machine, then a table; speed-up is against the first model."""
    print_machine(machine)
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    headings = ("median ms", "p90", "p99", "speed-up", "images/s", "precision", "INT8 MACs")
    for heading in (*headings, "GMAC/s", "of peak", "MB"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            escape(result.model),
            f"{result.latency_ms:.2f}",
            f"{result.latency_p90_ms:.2f}",
            f"{result.latency_p99_ms:.2f}",
            f"{result.speedup:.2f}x",
            _number(result.images_per_s, 1),
            result.precision,
            f"{100 * result.int8_share:.1f}%",
            f"{result.macs_per_s / 1e9:.0f}",
            f"{100 * result.macs_per_s / machine.int8_macs_per_s:.0f}%",
            f"{result.size_mb:.1f}",
        )
    stdout.print(table)


def print_programs(speeds: Sequence[ProgramSpeed]) -> None:
    """From file to boxes: each program's throughput, start-up and memory."""
    stdout.print("\nfrom file to boxes, one process each")
    table = Table(box=None, pad_edge=False)
    table.add_column("program")
    table.add_column("model", overflow="fold")
    for heading in ("images/s", "bare", "of bare", "first s", "peak MB"):
        table.add_column(heading, justify="right")
    for speed in speeds:
        share = speed.share_of_bare
        table.add_row(
            speed.program,
            escape(speed.model),
            _number(speed.end_to_end_per_s, 1),
            _number(speed.bare_per_s, 1),
            "-" if share is None else f"{100 * share:.0f}%",
            _number(speed.first_s, 2),
            _number(speed.peak_mb, 0),
        )
    stdout.print(table)


def print_machine(machine: Machine) -> None:
    """One line, and a warning where figures would mean little."""
    features = ", ".join(machine.features) or "none of the instructions that INT8 gains from"
    stdout.print(
        f"{machine.cpu}, {features}; {machine.threads} threads, load {_number(machine.load, 1)}, "
        f"INT8 peak {machine.int8_macs_per_s / 1e9:.0f} GMAC/s",
        markup=False,
        highlight=False,
    )
    if machine.is_busy:
        stderr.print(
            f"warning: {_number(machine.load, 1)} processes were busy on {machine.cores} cores; "
            "stop them and measure again",
            style="yellow",
        )


def print_layer_times(model: str, layers: Sequence[LayerTime]) -> None:
    """Time by kind and precision, then the slowest operations."""
    kinds: dict[tuple[str, str], list[LayerTime]] = {}
    for layer in layers:
        kinds.setdefault((layer.kind, layer.precision), []).append(layer)
    stdout.print(f"\n{model}: {len(layers)} operations", markup=False, highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("kind", "precision"):
        table.add_column(heading)
    for heading in ("count", "ms", "share"):
        table.add_column(heading, justify="right")
    for (kind, precision), some in sorted(
        kinds.items(), key=lambda item: -sum(layer.ms for layer in item[1])
    ):
        time_ms, share = sum(layer.ms for layer in some), sum(layer.share for layer in some)
        table.add_row(kind, precision, str(len(some)), f"{time_ms:.3f}", f"{100 * share:.1f}%")
    stdout.print(table)
    table = Table(box=None, pad_edge=False, title=f"slowest {SLOWEST}", title_justify="left")
    table.add_column("operation", overflow="fold")
    for heading in ("kind", "kernel"):
        table.add_column(heading)
    for heading in ("ms", "share"):
        table.add_column(heading, justify="right")
    for layer in sorted(layers, key=lambda layer: -layer.ms)[:SLOWEST]:
        table.add_row(
            escape(layer.name),
            layer.kind,
            layer.kernel,
            f"{layer.ms:.3f}",
            f"{100 * layer.share:.1f}%",
        )
    stdout.print(table)


def print_quantization(comparison: Comparison, directory: Path, *, rounds: int) -> None:
    """Scores, latency (medians of ``rounds`` inferences), decisions, and what to be careful of."""
    strategy = strategy_of(comparison.result.graph.spec)
    metric, _ = strategy.COLUMNS[0]
    for recipe, reason in comparison.left_out.items():
        warn(f"{recipe} is left out of the comparison: {reason}")
    if comparison.scores:
        print_scores(comparison.scores, strategy.COLUMNS)
        note_left_out(comparison.split, comparison.scores[0].data)
    else:
        note(f"split {comparison.split} has no ground truth: {metric} was not measured")
    exact, int8 = comparison.rows[0].speed, comparison.rows[-1].speed
    stdout.print(
        f"latency {exact.latency_ms:.2f} ms in float, {int8.latency_ms:.2f} ms in INT8 "
        f"({int8.speedup:.2f}x, medians of {rounds} inferences in turns)",
        highlight=False,
    )
    _print_decisions(comparison.result, directory)
    _warn_of_result(comparison.result)
    if comparison.overlap:
        warn(
            f"{comparison.overlap} calibration images are also in split {comparison.split}: "
            f"its {metric} flatters"
        )


def _print_decisions(result: QuantizationResult, directory: Path) -> None:
    quantized = result.quantized
    in_float = sum(decision.method == "float" for decision in quantized.decisions)
    agreement = "nothing to compare" if result.agreement is None else f"{result.agreement:.1f}%"
    where = f"{len(result.judges)} {'other' if result.held_back else 'calibration'} images"
    stdout.print(
        f"{len(quantized.split_layers)} convolutions split, {in_float} tensors left in float, "
        f"{100 * result.int8_share:.1f}% of convolution MACs in INT8\n"
        f"agreement with float {agreement} on {where}, written to {directory}",
        highlight=False,
    )
    if result.guard is not None:
        stdout.print(
            f"--max-drop: {len(result.guard.returned)} tensors given back to float, "
            f"{100 * result.guard.mac_share:.1f}% of the work; the drop was "
            f"{result.guard.drops[0]:.2f}, is {result.guard.drop:.2f}",
            highlight=False,
        )


def _warn_of_result(result: QuantizationResult) -> None:
    recognised = result.float_graph.spec.reparameterized
    if result.quantized.recipe.weights.split != "none" and not recognised:
        warn("no re-parameterized convolution was recognised, so no weight was split")
    if result.calibration.skipped:
        names = ", ".join(path.name for path in result.calibration.skipped[:3])
        warn(f"{len(result.calibration.skipped)} damaged images skipped: {names}")


def quantization_document(
    comparison: Comparison, directory: Path, calibration_split: str
) -> dict[str, Any]:
    """The same as :func:`print_quantization`, as plain values."""
    result, rows = comparison.result, comparison.rows
    scores = scores_document(comparison.scores, comparison.split)
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
        "latency_ms": {"float": rows[0].speed.latency_ms, "int8": rows[-1].speed.latency_ms},
    }


def print_quickstart(outcome: Quickstart) -> None:
    """What a quickstart measured, and where to look."""
    comparison = outcome.comparison
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    metrics = strategy_of(comparison.result.graph.spec).WORDS.metrics
    for heading in (*(heading for heading, _ in metrics), "latency ms", "speed-up", "MB"):
        table.add_column(heading, justify="right")
    for row, quality in zip(comparison.rows, comparison.scores, strict=True):
        table.add_row(
            escape(row.label),
            *(_number(quality.scores[key]) for _, key in metrics),
            f"{row.speed.latency_ms:.2f}",
            f"{row.speed.speedup:.2f}x",
            f"{quality.size_mb:.1f}",
        )
    stdout.print(table)
    images, agreement = comparison.scores[0].images, comparison.result.agreement
    stdout.print(f"{images} test scenes; INT8 agrees with float to {_number(agreement, 1)}%")
    for label, path in (
        ("INT8 model", outcome.model),
        ("report", outcome.report),
        ("pictures", outcome.pictures),
    ):
        stdout.print(f"{label:<10} {path}", markup=False, highlight=False)


def print_layers(reports: Sequence[LayerReport]) -> None:
    """One row per convolution; re-parameterized ones are marked."""
    table = Table("convolution", "part", "shape", box=None, pad_edge=False)
    for heading in ("rep", "centre/surround", "plain INT8 dB", "CFWS dB", "gain dB"):
        table.add_column(heading, justify="right")
    for report in reports:
        gain = None if report.cfws_db is None else report.cfws_db - report.plain_db
        table.add_row(
            escape(report.name),
            report.part,
            "x".join(map(str, report.shape)),
            "yes" if report.reparameterized else "",
            f"{report.center_to_surround:.1f}",
            f"{report.plain_db:.1f}",
            _number(report.cfws_db, 1),
            _number(gain, 1),
        )
    stdout.print(table)


def print_predictions(images: Sequence[Prediction] | Sequence[Classified]) -> None:
    """One line per image: what was found in it."""
    for image in images:
        stdout.print(f"{image.file}: {image.summary}", markup=False, highlight=False)


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


def write_json(path: Path | None, document: dict[str, Any]) -> None:
    """The results as a JSON document with a schema number, where ``--json`` asks for it.

    Raises ArtifactError if the file cannot be written.
    """
    if path is not None:
        text = json.dumps({"schema": SCHEMA, **document}, indent=2, ensure_ascii=False)
        # A file name that is no Unicode becomes a JSON escape.
        write_file(path, f"{text}\n".encode(errors="backslashreplace"))


def check_file(path: Path | None) -> None:
    """Raise ArtifactError unless a result file can be written there: before the work, not after."""
    if path is None:
        return
    if not path.exists():
        check_creatable(path)
        return
    if path.is_dir() or not os.access(path, os.W_OK):
        reason = os.strerror(errno.EISDIR if path.is_dir() else errno.EACCES)
        raise ArtifactError(f"{path}: cannot be written ({reason}); pass another path")


def write_file(path: Path, content: bytes) -> None:
    """Write a result file whole, making its folder. Raises ArtifactError if that is impossible.

    What is no regular file (``/dev/stdout``, a pipe) takes the bytes as they come, and so does a
    file in a folder that nothing else can be written to.
    """
    try:
        in_place = path.exists() and not (path.is_file() and os.access(path.parent, os.W_OK))
        if in_place or path.is_relative_to("/dev"):
            path.write_bytes(content)
        else:
            atomic_write(path.resolve(), content)  # a link stays one
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror})") from None


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _difference(value: float | None, first: float | None) -> str:
    return "-" if value is None or first is None else f"{value - first:+.2f}"
