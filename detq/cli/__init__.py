"""The command line: a file per command with its arguments, the work in :mod:`detq.api`, what is
shown in :mod:`detq.console`.

Imports inside the commands keep ``detq --help`` fast: torch, OpenVINO and NNCF take seconds.
"""

from detq.cli.entry import main

__all__ = ["main"]
