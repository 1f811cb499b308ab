"""``detq quickstart``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detq.cli.arguments import Device, Json


def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path(
        "runs/quickstart"
    ),
    images: Annotated[int, typer.Option(min=20, help="Test scenes.")] = 500,
    device: Device = "CPU",
    json_file: Json = None,
) -> None:
    """The whole job, offline, on the digits model that detq brings along."""
    from detq import api
    from detq.cli.opening import check_quantizer
    from detq.console.files import check_file, write_json
    from detq.quickstart import MODEL

    check_quantizer("quickstart", Path(MODEL))
    from detq.console.quantization import print_quickstart, quickstart_document
    from detq.console.terminal import progress_bars
    from detq.quickstart import quickstart as run

    check_file(json_file)
    with progress_bars() as report:
        outcome = run(output, images=images, device=api.device_named(device), progress=report)
    print_quickstart(outcome)
    write_json(json_file, quickstart_document(outcome))
