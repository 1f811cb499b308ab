"""Results as files: checked before the work, written whole."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from detq.errors import ArtifactError
from detq.files import result_file
from detq.graph.saving import check_creatable

SCHEMA = 1
"""Of a JSON document: keys are added, never renamed."""


def write_json(path: Path | None, document: dict[str, Any]) -> None:
    """The results as a JSON document with a schema number, where ``--json`` asks for it.

    Raises ArtifactError if the file cannot be written.
    """
    if path is not None:
        text = json.dumps({"schema": SCHEMA, **document}, indent=2, ensure_ascii=False)
        # A file name that is no Unicode becomes a JSON escape.
        write_file(path, f"{text}\n".encode(errors="backslashreplace"))


def check_file(path: Path | None) -> None:
    """Raise ArtifactError unless a result file can be written there: before the work, not after."""
    if path is None:
        return
    if not path.exists():
        check_creatable(path)
        return
    if path.is_dir() or not os.access(path, os.W_OK):
        reason = os.strerror(errno.EISDIR if path.is_dir() else errno.EACCES)
        raise ArtifactError(f"{path}: cannot be written ({reason}); pass another path")


def write_file(path: Path, content: bytes) -> None:
    """Write a result file whole (:func:`detq.files.result_file`), making its folder.

    Raises ArtifactError if that is impossible.
    """
    try:
        with result_file(path) as place:
            place.write_bytes(content)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror})") from None
