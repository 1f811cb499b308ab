"""``detq demo``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from detq.cli.arguments import MODEL_HELP, Device, ImageSize, Threads, image_size
from detq.errors import ConfigError

Sources = Annotated[
    list[str] | None,
    typer.Option(
        help="A camera's number, an rtsp:// or http:// stream, a video, pictures, an archive, a "
        "list; repeat it for several. Camera 0 by default; with --web the visitor's own."
    ),
]
Certificate = Annotated[
    Path | None, typer.Option(help="With --web: PEM file with certificate and key, for https.")
]


def demo(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    source: Sources = None,
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
    track: Annotated[bool, typer.Option("--track", help="Ids that stay.")] = False,
    every: Annotated[
        int, typer.Option(min=1, help="Look at every N-th picture of a source, show them all.")
    ] = 1,
    threads: Threads = None,
    device: Device = "CPU",
    save: Annotated[
        Path | None, typer.Option(help="No window: record what it would show (.mp4, .avi).")
    ] = None,
    snapshots: Annotated[Path, typer.Option(help="Folder for pictures kept with 's'.")] = Path(),
    web: Annotated[bool, typer.Option("--web", help="A page in the browser.")] = False,
    host: Annotated[str | None, typer.Option(help="With --web: 127.0.0.1 by default.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="With --web: 8000 by default.")
    ] = None,
    certificate: Certificate = None,
) -> None:
    """Boxes live: a window on the desk, or a page in the browser (--web)."""
    from detq import api
    from detq.console.terminal import progress_bars
    from detq.demo.launch import Page, prepare
    from detq.demo.runner import Thresholds
    from detq.demo.sight import Following
    from detq.extras import EXTRAS, require

    page = _page_options(web, save, host=host, port=port, certificate=certificate)
    if web and every > 1 and not source:
        raise ConfigError("--every: a visitor's page sends what it can; pass it with --source")
    if web:
        require("--web", *EXTRAS["demo"])
    with progress_bars() as report:
        show = prepare(
            model,
            compare=compare,
            sources=source or [],
            following=Following(every, track),
            imgsz=image_size(imgsz),
            thresholds=Thresholds(confidence, iou),
            options=api.RuntimeOptions(device=api.device_named(device), threads=threads),
            target=Page(**page) if web else save,
            snapshots=snapshots,
            progress=report,
        )
    show()


def _page_options(web: bool, save: Path | None, **options: Any) -> dict[str, Any]:
    """Those that were given. Raises ConfigError where they do not belong."""
    given = {name: value for name, value in options.items() if value is not None}
    if web and save is not None:
        raise ConfigError("--save: records what the window would show; leave out --web")
    if given and not web:
        raise ConfigError(f"--{next(iter(given))}: only with --web")
    return given
