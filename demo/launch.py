"""What ``detq demo`` does, for the window, for a recording and for the page."""

from __future__ import annotations

import sys
from pathlib import Path

import detq

from .contenders import Contender, ImageSize, Progress
from .recording import FRAMES_PER_S, as_shown, check_recording, every_frame, record
from .runner import Thresholds
from .sources import Clip, open_source
from .stage import Stage
from .view import View
from .window import check_screen, show

CAMERA = "0"
LOOPBACK, PORT = "127.0.0.1", 8000


def open_contenders(
    model: str,
    compare: str | None,
    *,
    imgsz: ImageSize | None,
    threads: int | None,
    progress: Progress | None,
) -> list[Contender]:
    """The models on show, in the order of the screen: the one compared with is on the left."""
    names = [model] if compare is None else [compare, model]
    return [Contender(n, imgsz=imgsz, threads=threads, progress=progress) for n in names]


def on_screen(
    contenders: list[Contender], *, source: str | None, thresholds: Thresholds, snapshots: Path
) -> None:
    """The window, until the viewer quits. Raises DetqError, also if there is no screen."""
    check_screen()
    view = _first_view(contenders, thresholds)
    with Stage(contenders, open_source(source or CAMERA), view) as stage:
        try:
            show(stage, view, snapshots=snapshots)
        except KeyboardInterrupt:
            return


def to_file(
    contenders: list[Contender], *, source: str | None, thresholds: Thresholds, save: Path
) -> None:
    """A video of what the window would show, until the source ends or Ctrl-C. Raises DetqError.

    One model on a file leaves out no picture; two, or a live source, are recorded in real time.
    """
    check_recording(save)
    opened = open_source(source or CAMERA, repeats=False)
    view = _first_view(contenders, thresholds)
    if isinstance(opened, Clip) and len(contenders) == 1:
        pictures = every_frame(contenders[0], opened, view)
        count = record(save, pictures, opened.frames_per_s)
    else:
        with Stage(contenders, opened, view) as stage:
            count = record(save, as_shown(stage, view), FRAMES_PER_S)
    if not count:
        raise detq.DetqError(f"{save}: not written; {opened.title} showed nothing")
    print(f"{count} pictures in {save}", file=sys.stderr)


def on_page(
    contenders: list[Contender],
    *,
    source: str | None,
    thresholds: Thresholds,
    host: str,
    port: int,
    certificate: Path | None,
) -> None:
    """A page in the browser, until Ctrl-C; ``source`` is shown beside visitors' own cameras.

    Raises DetqError, also if the web server is not installed.
    """
    try:
        from .live import LiveView  # noqa: PLC0415 - only the page needs a web server
        from .server import serve  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise detq.DetqError(
            f"--web: needs {error.name}, which is not installed; run: pip install 'detq[demo]'"
        ) from None
    live = None
    if source is not None:
        live = LiveView(contenders, open_source(source), thresholds)
    try:
        serve(
            contenders,
            live=live,
            thresholds=thresholds,
            host=host,
            port=port,
            certificate=certificate,
        )
    except KeyboardInterrupt:
        return
    finally:
        if live is not None:
            live.close()


def _first_view(contenders: list[Contender], thresholds: Thresholds) -> View:
    models = len(contenders)
    return View(models, thresholds, active=models - 1, is_split=models > 1)
