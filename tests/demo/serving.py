"""The demo's web server in a process of its own."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from command_line import COMMAND


@dataclass(frozen=True)
class Served:
    """A running ``detq demo --web``: what it said, and the address in it."""

    process: subprocess.Popen[str]
    address: str

    @property
    def host(self) -> str:
        """``127.0.0.1:8000``."""
        return self.address.split("//")[1].split("/")[0]


def start(*arguments: str | Path) -> Served:
    process = subprocess.Popen(
        (*COMMAND, "demo", *map(str, arguments), "--web", "--port", "0"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("open http"), line
    return Served(process, line.split()[1])


def end(served: Served) -> None:
    served.process.terminate()
    served.process.wait(120)
    assert served.process.stdout is not None
    served.process.stdout.close()
