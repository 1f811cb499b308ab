"""Options of ``detq predict`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Images, folders, patterns, lists (.txt, .parquet), .tar, .zip, videos, cameras by "
        "number, streams by address; docs/predict.md.",
    ),
]
Format = Annotated[
    Literal["jsonl", "parquet", "coco", "yolo", "csv"],
    typer.Option("--format", help="What is written."),
]
Rect = Annotated[
    bool | None,
    typer.Option("--rect/--square", help="Inputs of the frames' shapes; by default of videos."),
]
Truth = Annotated[
    Path | None, typer.Option(help="With --format coco: the annotations whose ids are meant.")
]
