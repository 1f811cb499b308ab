"""What ``detq demo`` does: what can go wrong goes wrong first, then the show begins."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import detq
from detq import Clip, Source, open_source

from .contenders import Contender, ImageSize
from .recording import FRAMES_PER_S, as_shown, check_recording, every_frame, record
from .runner import Thresholds
from .stage import Stage
from .view import View
from .window import check_screen, show

CAMERA = "0"


@dataclass(frozen=True)
class Page:
    """Where the page is served; ``certificate`` is a PEM file with its key, for https."""

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None


def prepare(
    model: str,
    *,
    compare: str | None,
    source: str | None,
    imgsz: ImageSize | None,
    thresholds: Thresholds,
    threads: int | None,
    target: Page | Path | None,
    snapshots: Path,
    progress: detq.Progress | None = None,
) -> Callable[[], None]:
    """Open models and source; the show is what is returned, and runs until its end or Ctrl-C.

    ``target`` is the page that shows it, the video file that it is recorded to, or None for a
    window. Raises DetqError, as the show does.
    """
    begin: Callable[[Sequence[Contender]], None]
    if isinstance(target, Page):
        opened = None if source is None else open_source(source)
        begin = partial(_on_page, source=opened, thresholds=thresholds, page=target)
    elif target is not None:
        check_recording(target)
        recorded = open_source(source or CAMERA, repeats=False)
        begin = partial(_to_file, source=recorded, thresholds=thresholds, path=target)
    else:
        check_screen()
        shown = open_source(source or CAMERA)
        begin = partial(_on_screen, source=shown, thresholds=thresholds, snapshots=snapshots)
    # The one compared with is on the left.
    names = [model] if compare is None else [compare, model]
    contenders = [Contender(n, imgsz=imgsz, threads=threads, progress=progress) for n in names]
    return partial(begin, contenders)


def _on_screen(
    contenders: Sequence[Contender], *, source: Source, thresholds: Thresholds, snapshots: Path
) -> None:
    view = _first_view(contenders, thresholds)
    try:
        with Stage(contenders, source, view) as stage:
            show(stage, view, snapshots=snapshots)
    except KeyboardInterrupt:
        return


def _to_file(
    contenders: Sequence[Contender], *, source: Source, thresholds: Thresholds, path: Path
) -> None:
    """One model on a file leaves out no picture; all else is recorded in real time."""
    view = _first_view(contenders, thresholds)
    if isinstance(source, Clip) and len(contenders) == 1:
        pictures = every_frame(contenders[0], source, view)
        count = record(path, pictures, source.frames_per_s)
    else:
        with Stage(contenders, source, view) as stage:
            count = record(path, as_shown(stage, view), FRAMES_PER_S)
    if not count:
        raise detq.DetqError(f"{path}: not written; {source.title} showed nothing")
    print(f"{count} pictures in {path}", file=sys.stderr)


def _on_page(
    contenders: Sequence[Contender], *, source: Source | None, thresholds: Thresholds, page: Page
) -> None:
    from .live import LiveView  # noqa: PLC0415 - only the page needs a web server
    from .server import serve  # noqa: PLC0415

    live = None if source is None else LiveView(contenders, source, thresholds)
    try:
        serve(
            contenders,
            live=live,
            thresholds=thresholds,
            host=page.host,
            port=page.port,
            certificate=page.certificate,
        )
    except KeyboardInterrupt:
        return
    finally:
        if live is not None:
            live.close()


def _first_view(contenders: Sequence[Contender], thresholds: Thresholds) -> View:
    models = len(contenders)
    return View(models, thresholds, active=models - 1, is_split=models > 1)
