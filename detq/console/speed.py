"""How fast models are, and where their time goes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from detq.console.numbers import number, percent, ratio
from detq.console.terminal import stdout, warn
from detq.programs.measure import ProgramSpeed
from detq.programs.speeds import Speeds
from detq.records import BenchResult, LayerTime, Machine

SLOWEST = 15
"""Operations that a layer table shows one by one."""


def print_speeds(speeds: Speeds) -> None:
    """All that was measured, table by table."""
    print_bench(speeds.models, speeds.machine)
    if speeds.programs:
        print_programs(speeds.programs)
        print_stages(speeds.programs)
    for model, times in (speeds.layers or {}).items():
        print_layer_times(model, times)


def print_bench(results: Sequence[BenchResult], machine: Machine) -> None:
    """The machine, then a table; speed-up is against the fastest float."""
    print_machine(machine)
    executed = ", ".join(sorted({result.device for result in results}))
    stdout.print(f"device {machine.device}, executed on {executed}", markup=False, highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    headings = (
        "median ms",
        "p90",
        "p99",
        "speed-up",
        "of f32",
        "images/s",
        "precision",
        "INT8 MACs",
    )
    for heading in (*headings, "GMAC/s", "of peak", "MB"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            escape(result.model),
            f"{result.latency_ms:.2f}",
            f"{result.latency_p90_ms:.2f}",
            f"{result.latency_p99_ms:.2f}",
            f"{result.speedup:.2f}x",
            ratio(result.of_f32),
            number(result.images_per_s, 1),
            result.precision,
            percent(result.int8_share, 1),
            f"{result.macs_per_s / 1e9:.0f}",
            percent(_share_of_peak(result, machine)),
            f"{result.size_mb:.1f}",
        )
    stdout.print(table)


def _share_of_peak(result: BenchResult, machine: Machine) -> float | None:
    """The peak was measured on the CPU."""
    if result.device != "CPU":
        return None
    return result.macs_per_s / machine.int8_macs_per_s


def print_programs(speeds: Sequence[ProgramSpeed]) -> None:
    """From file to boxes: each program's throughput, start-up and memory."""
    stdout.print("\nfrom file to boxes, one process each")
    table = Table(box=None, pad_edge=False)
    table.add_column("program")
    table.add_column("model", overflow="fold")
    for heading in ("images/s", "bare", "of bare", "precision", "first s", "peak MB"):
        table.add_column(heading, justify="right")
    for speed in speeds:
        share = speed.share_of_bare
        table.add_row(
            speed.program,
            escape(speed.model),
            number(speed.end_to_end_per_s, 1),
            number(speed.bare_per_s, 1),
            percent(share),
            speed.precision or "-",
            number(speed.first_s, 2),
            number(speed.peak_mb, 0),
        )
    stdout.print(table)


def print_machine(machine: Machine) -> None:
    """One line, and a warning where figures would mean little."""
    features = ", ".join(machine.features) or "none of the instructions that INT8 gains from"
    stdout.print(
        f"{machine.cpu}, {features}; {machine.threads} threads, load {number(machine.load, 1)}, "
        f"INT8 peak {machine.int8_macs_per_s / 1e9:.0f} GMAC/s",
        markup=False,
        highlight=False,
    )
    if machine.is_busy:
        warn(busy(machine.load, machine.cores))


def busy(load: float | None, cores: int) -> str:
    """What is to be said of speed that was measured beside other processes."""
    return (
        f"{number(load, 1)} processes were busy on {cores} cores before speed was measured; "
        "stop them and measure again"
    )


def print_stages(speeds: Sequence[ProgramSpeed]) -> None:
    """What an image takes of all cores together on its way to boxes; nothing if not measured."""
    known = [(speed.model, speed.core_ms) for speed in speeds if speed.core_ms]
    if not known:
        return
    stdout.print("\ncore-milliseconds of an image, stage after stage")
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    for heading in (*known[0][1], "all"):
        table.add_column(heading, justify="right")
    for model, core_ms in known:
        times = [*core_ms.values(), sum(core_ms.values())]
        table.add_row(escape(model), *(f"{time_ms:.2f}" for time_ms in times))
    stdout.print(table)


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
        table.add_row(kind, precision, str(len(some)), f"{time_ms:.3f}", percent(share, 1))
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
            percent(layer.share, 1),
        )
    stdout.print(table)
