"""Model files of a user's own kind: functions that open them, registered here or by a package."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from detq.errors import CheckpointError, DetqError
from detq.graph.detector_graph import DetectorGraph
from detq.records import SizeHW

Adapter = Callable[[Path, SizeHW | None], DetectorGraph | None]
"""(model file, wanted (H, W) in pixels or None) -> its detector graph, None if the file is of
another kind."""

GROUP = "detq.adapters"
"""The entry point group by which an installed package registers its adapters."""

_registered: list[Adapter] = []


def register_adapter(adapter: Adapter) -> Adapter:
    """Let every function and command of this process open the files that ``adapter`` knows.

    It is asked before detq's own readers, the one registered last first. Returns it, so that it
    serves as a decorator. What works for one process works for the command line if a package names
    the function as an entry point of the group ``detq.adapters`` (docs/adapters.md).
    """
    _registered.append(adapter)
    return adapter


def open_by_adapter(path: Path, size_hw: SizeHW | None) -> DetectorGraph | None:
    """What the first adapter makes of a file that knows it; None if none does.

    Raises CheckpointError, naming file and adapter, for one that fails or returns anything else.
    """
    for adapter in (*reversed(_registered), *_installed()):
        graph = _opened(adapter, path, size_hw)
        if graph is not None:
            return graph
    return None


@cache
def _installed() -> tuple[Adapter, ...]:
    """The adapters of installed packages. Raises DetqError for one that cannot be imported."""
    found = []
    for entry in entry_points(group=GROUP):
        try:
            found.append(entry.load())
        except Exception as error:  # somebody else's module is run
            raise DetqError(
                f"the adapter {entry.value} of an installed package cannot be imported "
                f"({_reason(error)}); mend or remove the package"
            ) from None
    return tuple(found)


def _opened(adapter: Adapter, path: Path, size_hw: SizeHW | None) -> DetectorGraph | None:
    name = f"{adapter.__module__}.{adapter.__qualname__}"
    try:
        graph = adapter(path, size_hw)
    except DetqError:
        raise
    except Exception as error:  # somebody else's function is run
        raise CheckpointError(f"{path}: the adapter {name} failed ({_reason(error)})") from None
    if graph is None or isinstance(graph, DetectorGraph):
        return graph
    raise CheckpointError(
        f"{path}: the adapter {name} returned a {type(graph).__name__}; expected what detq.adapt "
        "returns, or None"
    )


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
