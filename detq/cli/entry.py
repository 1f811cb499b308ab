"""Where ``detq`` begins and ends: its commands, the one error line, the exit status."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import typer
from typer.exceptions import TyperException

from detq.cli.commands import app
from detq.crash_report import crash_line
from detq.errors import DetqError, one_line
from detq.process import (
    ended_by_signals,
    flush_output,
    leave_deleted_folder,
    open_standard_streams,
    print_error,
    restart_in_utf8,
    spare_threads,
    watched_threads,
)

INTERRUPTED = 130
"""What Typer makes of a KeyboardInterrupt."""


def main() -> None:
    """Entry point: whatever goes wrong becomes one line on stderr, and exit status 1 (usage: 2)."""
    restart_in_utf8()
    open_standard_streams()
    leave_deleted_folder()
    spare_threads()
    with ended_by_signals(), watched_threads() as failures:
        status = _run(failures)
    sys.exit(status)


def _run(failures: list[BaseException]) -> int:
    """The exit status. ``failures`` are what ended threads, which interrupts the main one."""
    try:
        status = app(standalone_mode=False)
        if status == INTERRUPTED or failures:
            raise KeyboardInterrupt
        flush_output()
    except SystemExit:
        raise
    except BaseException as error:  # Rust's panics are no Exception
        with suppress(OSError, ValueError):
            flush_output()
        status = error.exit_code if isinstance(error, TyperException) else 1
        if line := _explained(failures[0] if failures else error):
            print_error(one_line(line))
    return int(status or 0)


def _explained(error: BaseException) -> str:
    """One line; empty where the help was the answer."""
    if isinstance(error, DetqError):
        return str(error)
    if isinstance(error, (typer.Abort, KeyboardInterrupt)):
        return "interrupted; nothing was written"
    if isinstance(error, TyperException):  # wrong usage
        message = error.format_message().rstrip(".")
        return f"{message}. See detq --help." if message else ""
    if isinstance(error, OSError) and error.strerror:  # the disk is full, a file is gone
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return f"{where}{error.strerror}"
    return crash_line(error)
