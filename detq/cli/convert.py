"""``detq convert``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A model to convert.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The file to write.")],
) -> None:
    """Keep a checkpoint as safetensors: the same network, nothing in it that could be executed."""
    from detq import api
    from detq.console.terminal import note, progress_bars
    from detq.extras import EXTRAS, require

    require("detq convert", *EXTRAS["torch"])
    with progress_bars() as report:
        stored = api.convert(checkpoint, output, progress=report)
    classes = len(stored.class_names)
    note(f"{output}: {stored.parameter_count / 1e6:.2f} M parameters, {classes} classes")
