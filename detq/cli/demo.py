"""``detq demo``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detq.cli.arguments import MODEL_HELP, ImageSize, Threads, image_size
from detq.errors import ConfigError


def demo(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    source: Annotated[
        str | None,
        typer.Option(
            help="A camera's number, a video, pictures, or an rtsp:// or http:// stream. Camera 0 "
            "by default; with --web the visitor's own."
        ),
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Show this model beside it.")
    ] = None,
    imgsz: ImageSize = None,
    confidence: Annotated[
        float, typer.Option(min=0, max=0.99, help="Least score of a detection.")
    ] = 0.25,
    iou: Annotated[
        float, typer.Option(min=0, max=1, help="Overlap above which boxes are one object.")
    ] = 0.45,
    threads: Threads = None,
    save: Annotated[
        Path | None, typer.Option(help="No window: record what it would show (.mp4, .avi).")
    ] = None,
    snapshots: Annotated[Path, typer.Option(help="Folder for pictures kept with 's'.")] = Path(),
    web: Annotated[bool, typer.Option("--web", help="A page in the browser.")] = False,
    host: Annotated[str | None, typer.Option(help="With --web: 127.0.0.1 by default.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="With --web: 8000 by default.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="With --web: PEM file with certificate and key, for https.")
    ] = None,
) -> None:
    """Boxes live: a window on the desk, or a page in the browser (--web)."""
    from detq.console.terminal import progress_bars
    from detq.demo.launch import Page, prepare
    from detq.demo.runner import Thresholds
    from detq.extras import EXTRAS, require

    page_options = {"host": host, "port": port, "certificate": certificate}
    chosen = {name: value for name, value in page_options.items() if value is not None}
    if web and save is not None:
        raise ConfigError("--save: records what the window would show; leave out --web")
    if chosen and not web:
        raise ConfigError(f"--{next(iter(chosen))}: only with --web")
    if web:
        require("--web", *EXTRAS["demo"])
    with progress_bars() as report:
        show = prepare(
            model,
            compare=compare,
            source=source,
            imgsz=image_size(imgsz),
            thresholds=Thresholds(confidence, iou),
            threads=threads,
            target=Page(**chosen) if web else save,
            snapshots=snapshots,
            progress=report,
        )
    show()
