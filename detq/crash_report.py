"""An error that nobody foresaw: one line for the person, a file for whoever mends it.

The file holds where it happened, the command and versions; nothing of images, weights or the
environment.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import traceback
from importlib.metadata import PackageNotFoundError, version

from detq.errors import one_line

_PACKAGES = (
    "detq",
    "openvino",
    "nncf",
    "torch",
    "numpy",
    "onnx",
    "opencv-python",
    "opencv-python-headless",
    "ultralytics",
)


def crash_line(error: BaseException) -> str:
    """Write the report; what happened, and where the report is."""
    try:
        what = _what(error)
        try:
            path = _write(error)
        except OSError as refusal:
            return f"{what}; no report could be written ({refusal.strerror or refusal}): set TMPDIR"
        return f"{what}; this is a fault of detq: please report it with {path}"
    except (MemoryError, RecursionError):  # once more
        return f"{type(error).__name__}; no report could be written"


def _what(error: BaseException) -> str:
    """``KeyError: 'x' (search.py, line 12)``."""
    if isinstance(error, MemoryError):
        return f"{one_line(str(error)) or 'out of memory'} ({_where(error)})"
    said = one_line(traceback.format_exception_only(error)[-1].strip())
    return f"{said} ({_where(error)})"


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "place unknown"
    folder = os.path.dirname(__file__)  # noqa: PTH120 - a string, as in frames
    own = [frame for frame in frames if frame.filename.startswith(folder)]
    last = (own or frames)[-1]
    return f"{os.path.basename(last.filename)}, line {last.lineno}"  # noqa: PTH119


def _write(error: BaseException) -> str:
    """The file's path. Raises OSError."""
    parts = (
        f"command: {shlex.join(sys.argv)}\n",
        f"Python {sys.version}\n{platform.platform()}\n",
        *(f"{name} {found}\n" for name in _PACKAGES if (found := _version(name))),
        "\n",
        *traceback.format_exception(error),
    )
    content = "".join(parts).encode(errors="backslashreplace")
    descriptor, path = tempfile.mkstemp(prefix="detq-report-", suffix=".txt")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except BaseException:
        os.unlink(path)  # noqa: PTH108
        raise
    return path


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
