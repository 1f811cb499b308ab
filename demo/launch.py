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
from .sight import Following
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


@dataclass(frozen=True)
class Show:
    """What is shown: models, from left to right, at work on sources."""

    contenders: Sequence[Contender]
    sources: Sequence[Source]
    thresholds: Thresholds
    following: Following

    @property
    def view(self) -> View:
        """What is seen first: all models side by side."""
        models = len(self.contenders)
        return View(models, self.thresholds, active=models - 1, is_split=models > 1)

    def stage(self) -> Stage:
        """All of it at work."""
        return Stage(self.contenders, self.sources, self.view, self.following)


def prepare(
    model: str,
    *,
    compare: str | None,
    sources: Sequence[str],
    following: Following,
    imgsz: ImageSize | None,
    thresholds: Thresholds,
    options: detq.RuntimeOptions,
    target: Page | Path | None,
    snapshots: Path,
    progress: detq.Progress | None = None,
) -> Callable[[], None]:
    """Open models and sources; the show is what is returned, and runs until its end or Ctrl-C.

    ``target`` is the page that shows it, the video file that it is recorded to, or None for a
    window. Raises DetqError, as the show does.
    """
    begin: Callable[[Show], None]
    if isinstance(target, Page):
        begin = partial(_on_page, page=target)
    elif target is not None:
        check_recording(target)
        begin = partial(_to_file, path=target)
    else:
        check_screen()
        begin = partial(_on_screen, snapshots=snapshots)
    if not sources and not isinstance(target, Page):
        sources = [CAMERA]
    opened = [open_source(name, repeats=not isinstance(target, Path)) for name in sources]
    following.tracks(thresholds.confidence, 1.0)  # says whether it can
    # The one compared with is on the left.
    names = [model] if compare is None else [compare, model]
    contenders = [Contender(n, imgsz=imgsz, options=options, progress=progress) for n in names]
    return partial(begin, Show(contenders, opened, thresholds, following))


def _on_screen(on: Show, *, snapshots: Path) -> None:
    try:
        with on.stage() as stage:
            show(stage, on.view, snapshots=snapshots)
    except KeyboardInterrupt:
        return


def _to_file(on: Show, *, path: Path) -> None:
    """One model on one file leaves out no picture; all else is recorded in real time."""
    clip = on.sources[0]
    if isinstance(clip, Clip) and len(on.sources) == len(on.contenders) == 1:
        pictures = every_frame(on.contenders[0], clip, on.thresholds, on.following)
        count = record(path, pictures, clip.frames_per_s)
    else:
        with on.stage() as stage:
            count = record(path, as_shown(stage, on.view), FRAMES_PER_S)
    if not count:
        names = ", ".join(source.title for source in on.sources)
        raise detq.DetqError(f"{path}: not written; {names} showed nothing")
    print(f"{count} pictures in {path}", file=sys.stderr)


def _on_page(on: Show, *, page: Page) -> None:
    from .live import LiveView  # noqa: PLC0415 - only the page needs a web server
    from .server import serve  # noqa: PLC0415

    live = None
    if on.sources:
        live = LiveView(on.contenders, on.sources, on.thresholds, on.following)
    try:
        serve(
            on.contenders,
            live=live,
            thresholds=on.thresholds,
            track=on.following.track,
            host=page.host,
            port=page.port,
            certificate=page.certificate,
        )
    except KeyboardInterrupt:
        return
    finally:
        if live is not None:
            live.close()
