"""The packages that only some installs have: what needs a missing one says so in one line."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from detq.errors import MissingLibraryError

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "quantize": ("nncf", "onnx", "scipy", "sklearn", "threadpoolctl", "matplotlib", "jinja2"),
    "torch": ("torch", "safetensors"),
    "demo": ("fastapi", "uvicorn", "websockets"),
    "scale": ("pyarrow", "fsspec"),
    "ray": ("ray",),
    "track": ("trackers", "supervision"),
}
"""Extra of detq -> the modules that it brings, by the names that they are imported by."""
_PACKAGES = {"sklearn": "scikit-learn"}
"""What an installer calls a module, where that is not its name."""


def require(what: str, *modules: str) -> None:
    """Return if all modules, of those in :data:`EXTRAS`, are installed; imports none of them.

    Raises MissingLibraryError, which ``what`` begins: it names one missing module of each extra,
    and how to install them all.
    """
    missing = {
        extra: _PACKAGES.get(module, module)
        for extra, its in EXTRAS.items()
        for module in reversed(its)  # the first is the one to name
        if module in modules and not _is_installed(module)
    }
    if missing:
        names, verb = " and ".join(missing.values()), "are" if len(missing) > 1 else "is"
        raise MissingLibraryError(
            f"{what}: needs {names}, which {verb} not installed; "
            f"pip install 'detq[{','.join(missing)}]'"
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # imported by a means that leaves no trace of where it came from
        return True
