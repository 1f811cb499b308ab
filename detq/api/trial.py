"""Graph files of unknown origin are read by another process first.

A file can pass every check and still end OpenVINO, or keep it busy for ever, while it converts,
compiles or runs the graph: a kernel of size 0, a Resize to terabytes. Then that process ends, and
this one says so. A file that went well is not tried again (:mod:`detq.graph.trust`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import detq.errors
from detq.cores import core_count
from detq.errors import CheckpointError, DetqError
from detq.graph.trust import is_trusted, trust
from detq.records import SizeHW

CPU_S, CPU_S_PER_MB = 3.0, 0.5
"""Processor time for reading and one inference, beside what the imports took."""
DATA_BYTES, DATA_PER_CORE, DATA_PER_BYTE, DATA_PER_PIXEL = 1 << 30, 24 << 20, 16, 400
"""Memory for the same: so much, and some for every core, byte of the file and pixel asked for."""
PATIENCE_S = 600
"""Wall time: the machine may be busy with other things."""


def try_elsewhere(path: Path, size_hw: SizeHW | None, layout: str | None) -> None:
    """Let another process load the graph file and run it once.

    Raises CheckpointError if that process ends or hangs, and whatever error the file deserves.
    Without effect for a file that was tried before, and where no process can be started.
    """
    if not sys.executable or is_trusted(path):
        return
    try:
        size = sum(p.stat().st_size for p in (path, path.with_suffix(".bin")) if p.is_file())
    except OSError:
        return
    height, width = size_hw or (0, 0)
    memory = DATA_BYTES + DATA_PER_CORE * core_count() + DATA_PER_BYTE * size
    limits = [str(CPU_S + CPU_S_PER_MB * size / 1e6), str(memory + DATA_PER_PIXEL * height * width)]
    wanted = {"path": str(path), "size_hw": size_hw, "layout": layout}
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", "detq.programs.trial", *limits],
            input=json.dumps(wanted).encode(errors="surrogateescape"),
            capture_output=True,
            env=_environment(),
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _hopeless(path, "keeps OpenVINO busy without end") from None
    except OSError:
        return
    if done.returncode <= 0:  # else it could not even begin, which says nothing about the file
        _check(path, done.returncode, done.stdout)
        trust(path)


def _environment() -> dict[str, str]:
    """This process's, in which this very package is found, installed or not."""
    folders = [str(Path(detq.errors.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}


def _check(path: Path, status: int, output: bytes) -> None:
    """Raise what the other process found, or what its end means."""
    if status in (-getattr(signal, "SIGXCPU", 0), -getattr(signal, "SIGKILL", 0)):
        raise _hopeless(path, "takes OpenVINO more time or memory than a file of its size can need")
    if status:
        name = signal.Signals(-status).name
        raise _hopeless(path, f"ends the process in which OpenVINO reads it ({name})")
    answer: dict[str, Any] = json.loads(output.splitlines()[-1]) if output.strip() else {}
    if answer:
        kind = getattr(detq.errors, str(answer.get("error")), CheckpointError)
        raise kind(str(answer.get("message"))) if issubclass(kind, DetqError) else kind


def _hopeless(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}; it is damaged: download it, or export it, again")
