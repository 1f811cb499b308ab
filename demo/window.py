"""The window on the desk: a loop that draws what is new and listens to the keys."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from pathlib import Path

import cv2

import detq
from detq import ImageBGR

from .stage import Stage
from .view import View, press

NAME = "detq"
HINT = "h: help"
KEY_WAIT_MS = 15
REDRAW_S = 1 / 30
"""Drawing takes from the same cores that infer."""
PROBE_S = 5.0


def show(stage: Stage, view: View, *, snapshots: Path) -> None:
    """Until the viewer quits or closes the window. Raises what the source or a model raises."""
    # Qt complains about fonts that nobody asked it for.
    os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")
    try:
        cv2.namedWindow(NAME, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
    except cv2.error:
        raise detq.DetqError(
            "this OpenCV opens no windows; install opencv-python instead of its headless build"
        ) from None
    drawn: tuple[object, ...] | None = None
    drawn_s = 0.0
    was_visible = visible = False
    size: tuple[int, ...] | None = None
    try:
        while not view.has_quit:
            stage.follow(view)
            if stage.state != drawn and time.monotonic() - drawn_s >= REDRAW_S:
                drawn, drawn_s, picture = stage.state, time.monotonic(), stage.picture(HINT)
                if picture.shape != size:
                    size = picture.shape
                    cv2.resizeWindow(NAME, size[1], size[0])
                cv2.imshow(NAME, picture)
            key = cv2.waitKey(KEY_WAIT_MS)
            was_visible, visible = was_visible or visible, _is_visible()
            if was_visible and not visible:  # its close button; at first it may not be there yet
                return
            pressed = press(view, chr(key & 0xFF)) if key >= 0 else view
            if pressed.snapshots > view.snapshots:
                print(f"kept {keep(stage.picture(HINT), snapshots)}", file=sys.stderr)
            view = pressed
    finally:
        cv2.destroyAllWindows()


def _is_visible() -> bool:
    try:
        return cv2.getWindowProperty(NAME, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:  # the last window takes the toolkit with it
        return False


def keep(picture: ImageBGR, folder: Path) -> Path:
    """Write a picture under a name made of the time; nothing is replaced. Raises DetqError."""
    stem = f"detq-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (f"{stem}{'' if n == 1 else f'-{n}'}.png" for n in range(1, 10_000))
    path = next(folder / name for name in names if not (folder / name).exists())
    detq.write_image(path, picture)
    return path


def check_screen() -> None:
    """Raise DetqError if there is no screen: OpenCV's toolkit on Linux would end the process."""
    if sys.platform == "linux" and not _answers(os.environ.get("DISPLAY", "")):
        raise detq.DetqError(
            "no screen to open a window on; pass --save FILE.mp4 to record, or --web for a page"
        )


def _answers(display: str) -> bool:
    """True if an X server listens where ``DISPLAY`` says (``:0``, ``host:10.0``)."""
    parts = re.fullmatch(r"(?P<host>[^:]*):(?P<number>\d+)(\.\d+)?", display)
    if parts is None:
        return False
    path = f"/tmp/.X11-unix/X{parts['number']}"  # noqa: S108 - where X servers listen
    local = parts["host"] in ("", "unix")
    addresses = [path, f"\0{path}"] if local else [(parts["host"], 6000 + int(parts["number"]))]
    for address in addresses:
        family = socket.AF_UNIX if local else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_S)
            try:
                probe.connect(address)
            except OSError:
                continue
            return True
    return False
