"""What a command of detq's command line did, for the tests that run it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEARD = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "hasattr(signal, 'SIGHUP') and signal.signal(signal.SIGHUP, signal.SIG_DFL)"
)
COMMAND = (sys.executable, "-c", f"{_HEARD}; from detq.cli import main; main()")
"""The command line in a process of its own; needs no installed script.

A test run in the background of a shell would hand an ignored SIGINT on to it, one under nohup an
ignored SIGHUP.
"""


@contextmanager
def running(folder: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The command line at work in ``folder``; its stderr is read by ``communicate``.

    However the block is left, the command has ended and its pipe is closed then.
    """
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        try:
            yield run
        finally:
            run.kill()


@dataclass(frozen=True)
class Outcome:
    """How a command ended. It failed well if its last line on stderr, and only that, is an error.

    ``errors`` are the lines that begin with ``error:``.
    """

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error:")]

    @property
    def failed_well(self) -> bool:
        last = self.err.splitlines()[-1:]
        quiet = "Traceback" not in self.err and not self.out
        return self.status in (1, 2) and quiet and self.errors == last != []


Command = Callable[..., Outcome]

EVAL_KEYS = [
    *("model", "map", "map50", "map75", "map_small", "map_medium", "map_large"),
    *("mar1", "mar10", "mar100", "mar_small", "mar_medium", "mar_large"),
    *("images", "seconds", "precision", "size_mb"),
]
"""What ``--json`` writes of every model that was measured, in this order."""


def read_json(path: Path) -> dict[str, Any]:
    """What ``--json`` wrote, without the number of its schema."""
    document = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    assert document.pop("schema") == 1
    return document
