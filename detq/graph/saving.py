"""Writing graphs into directories: asked before the work, whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openvino as ov

from detq.errors import ArtifactError, one_line
from detq.graph.execute import core

METADATA = "metadata.yaml"
"""Beside a graph; what it says of it."""


def check_creatable(path: Path) -> None:
    """Raise ArtifactError unless a file or directory can be made at ``path``; makes nothing.

    Missing folders above it count as fine: whoever writes there makes them.
    """
    folder = path.resolve().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be written ({error.strerror}); pass another path"
        ) from None


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Errors of writing files become an ArtifactError that names the directory."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ArtifactError(
            f"{directory}: cannot be written ({one_line(str(error))}); free some space, or pass "
            "another --output"
        ) from None


def save_graph(model: ov.Model, xml: Path) -> None:
    """Write an IR and read it again: a disk that fills at the last bytes is no error of saving.

    Raises OSError or RuntimeError.
    """
    ov.save_model(model, xml, compress_to_fp16=False)
    core().read_model(xml)
