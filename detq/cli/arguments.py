"""Arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from detq.errors import ConfigError

MODEL_HELP = (
    "A checkpoint (.pt, .pth, .safetensors), an .onnx, an exported directory or its .xml; or a "
    "known name: digits_yolov6n, or an official release such as yolov6s, which is downloaded."
)
Model = Annotated[Path, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Models = Annotated[list[Path], typer.Argument(metavar="MODEL...", help=MODEL_HELP)]
Data = Annotated[
    Path,
    typer.Option(
        help="A YAML, a COCO JSON or a folder (docs/data.md); or coco128 or coco to download."
    ),
]
ImageSize = Annotated[
    str | None, typer.Option(metavar="N|HxW", help="Network input size in pixels.")
]
Layout = Annotated[
    str | None,
    typer.Option(help="Of an .onnx or .xml that leaves it open; the error then lists them."),
]
RECIPE_HELP = (
    "A YAML file or measured, minmax, mean_minmax, nncf, kl, kl_entropy, cfws_kl, cfws_minmax, "
    "cfws_mse, cfws_percentile."
)
CalibrationImages = Annotated[
    int | None, typer.Option(min=1, help="Calibration images; the recipe says how many.")
]
CalibrationSplit = Annotated[str, typer.Option(help="Split to calibrate on.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Inference threads; all cores if not given.")
]
Device = Annotated[
    str,
    typer.Option(metavar="CPU|GPU|NPU|AUTO", help="OpenVINO's device; tested on CPUs alone."),
]
Preset = Annotated[
    Literal["yolov6", "coco", "ultralytics"] | None,
    typer.Option(help="Evaluation protocol; by default that of the model's official figures."),
]
PerClass = Annotated[
    bool,
    typer.Option("--per-class", help="Also each class, greatest losses first, and confusions."),
]
Engine = Annotated[
    Literal["local", "ray"], typer.Option(help="This process, or workers of a Ray cluster.")
]
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster; one of our own.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the results there as JSON.")]


def image_size(text: str | None) -> int | tuple[int, int] | None:
    """``640`` or ``384x640`` (height first). Raises ConfigError."""
    if text is None:
        return None
    try:
        sides = [int(side) for side in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise ConfigError(f"--imgsz {text}: expected a side in pixels, or HxW such as 384x640")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def share(text: str | None) -> tuple[int, int]:
    """``2/8``, the third of eight shares -> (2, 8); without text all of it. Raises ConfigError."""
    if text is None:
        return 0, 1
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise ConfigError(f"--shard {text}: expected I/N, such as 2/8") from None
    return index, count


def words(text: str) -> tuple[str, ...]:
    """``cat, dog`` -> those two. Raises ConfigError if there is none."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    if not found:
        raise ConfigError("--classes: names none; pass names such as cat,dog")
    return found
