"""Reads a graph file in a process of its own, so that nothing but that process can end or hang.

``python -m detq.programs.trial SECONDS BYTES``, with a JSON object of what to load on standard
input. The answer is a line of JSON: ``{}``, or the class and message of an error.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from detq.api.sources import load_untried
from detq.errors import DetqError
from detq.runtime.detector import CompiledGraph

IMPORTS = 5
"""The limit of processor time grows with what importing all this took: the machine may be slow."""


def main(cpu_s: float, data_bytes: int) -> None:
    """Load the model, compile it, run it once. What that may use is limited where it can be."""
    _limit(cpu_s + (1 + IMPORTS) * time.process_time(), data_bytes)
    print(json.dumps(_tried(json.loads(sys.stdin.read()))))  # noqa: T201 - the answer


def _tried(wanted: dict[str, Any]) -> dict[str, str]:
    size = wanted["size_hw"]
    try:
        graph = load_untried(wanted["path"], size and tuple(size), wanted["layout"])
        compiled = CompiledGraph(graph)
        compiled.infer_all([compiled.blank])
    except DetqError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except Exception as error:  # whatever it is, it is the file's
        return {"error": "CheckpointError", "message": f"{wanted['path']}: {error}"}
    return {}


def _limit(cpu_s: float, data_bytes: int) -> None:
    try:
        import resource  # noqa: PLC0415 - not on Windows

        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s), int(cpu_s) + 1))
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, AttributeError, ValueError, OSError):
        return  # the time limit of whoever waits remains


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
