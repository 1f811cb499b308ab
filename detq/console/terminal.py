"""The two streams of the command line, and how far a job is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from detq.progress import Progress, silent

FILE_WIDTH = 160
"""Columns when the output goes to a file or pipe; a terminal says its own."""

stdout = Console(soft_wrap=True, width=None if sys.stdout.isatty() else FILE_WIDTH)
stderr = Console(stderr=True, soft_wrap=True, width=None if sys.stderr.isatty() else FILE_WIDTH)


class Manner:
    """How much is said. ``is_quiet``: results, warnings and errors alone."""

    is_quiet = False


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A callback that shows one bar per stage, made when the stage first reports.

    In a log file, where bars cannot move, it is one line per stage.
    """
    if Manner.is_quiet:
        yield silent
        return
    if not stderr.is_terminal:
        yield _one_line_per_stage()
        return
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=stderr) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield report


class _Rate(ProgressColumn):
    """How much is done in a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


def _one_line_per_stage() -> Progress:
    announced: set[str] = set()

    def report(stage: str, done: int, total: int) -> None:
        if stage not in announced:
            announced.add(stage)
            note(f"{stage} ({total})" if total else stage)

    return report


def note(message: str) -> None:
    """A line for the person, on stderr."""
    if not Manner.is_quiet:
        stderr.print(escape(message), highlight=False)


def warn(message: str) -> None:
    """A line that the person should not miss, on stderr."""
    stderr.print(f"[yellow]warning:[/yellow] {escape(message)}", highlight=False)
