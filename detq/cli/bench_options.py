"""What ``detq bench`` can be told beside models."""

from __future__ import annotations

from typing import Annotated

import typer

from detq.errors import ConfigError

Streams = Annotated[
    int | None, typer.Option(min=1, help="Images that compute side by side; OpenVINO's choice.")
]
Pin = Annotated[
    bool | None, typer.Option("--pin/--no-pin", help="Tie threads to cores; OpenVINO's choice.")
]
Source = Annotated[
    str | None,
    typer.Option(
        help="What predict takes: also measure from file to boxes, start-up, memory. "
        "With --tune: images."
    ),
]
Peers = Annotated[
    list[str] | None,
    typer.Option(help="With --source: ultralytics, onnxruntime or benchmark_app beside detq."),
]
Rect = Annotated[
    bool | None,
    typer.Option(
        "--rect/--square", help="With --source: inputs of its shape, by default for a video."
    ),
]
Tune = Annotated[
    bool, typer.Option("--tune", help="Find an exported directory's fastest options; keep them.")
]


def check_tuning(*others: object) -> None:
    """Raise ConfigError unless all are None: options that tuning does not heed."""
    if any(other is not None for other in others):
        raise ConfigError(
            "--tune: finds out by itself how a directory runs best; leave out --peer, --layers, "
            "--rect, --imgsz, --layout, --threads, --streams and --pin"
        )
