"""The window on a virtual screen, with a video whose digits are known."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from browser import PATIENCE_S, until
from command_line import COMMAND
from scenes import MODEL, Known
from screen import Screen

from detq import class_color
from detq.demo.overlay import panel_size

Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def screen() -> Iterator[Screen]:
    with Screen() as running:
        yield running


@contextmanager
def window(screen: Screen, folder: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The demo in its window, which the block has to end, and well."""
    with subprocess.Popen(
        (*COMMAND, "demo", *map(str, arguments)),
        cwd=folder,
        env={**os.environ, "DISPLAY": screen.name},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            until(lambda: screen.window("detq") or process.poll() is not None, "the window")
            if process.poll() is None:
                screen.show_again(screen.window("detq"))
            yield process
            _, errors = process.communicate(timeout=PATIENCE_S)
        except BaseException:
            cv2.imwrite(str(folder / "screen.png"), screen.picture())  # for whoever looks into it
            raise
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert not errors.strip() or errors.startswith("kept "), errors


def boxes_drawn(picture: Image, known: Known, left: int, top: int, size_wh: tuple[int, int]) -> int:
    """How many of the known boxes have lines of their class's colour along their upper edge."""
    drawn = 0
    for name, (x1, y1, x2, _) in known.truth:
        row = top + round(y1 * size_wh[1])
        start, stop = (left + round(x * size_wh[0]) for x in (x1 + 0.2 * (x2 - x1), x2))
        edge = picture[max(row - 14, 0) : row + 14, start:stop].astype(int)
        near = np.abs(edge - class_color(int(name))).max(axis=2) < 60
        drawn += bool(near.any(axis=0).mean() > 0.5)
    return drawn


def heading_height(picture: Image) -> int:
    """Rows of the dark strip above the picture, in the middle of the first panel."""
    return int(np.argmax(picture[5:, 300].min(axis=1) > 60)) + 5


def test_both_models_side_by_side_then_one(
    screen: Screen, int8_model: Path, clip: Path, known: Known, tmp_path: Path
) -> None:
    count = len(known.truth)

    def drawn(*lefts: int) -> bool:
        picture = screen.picture()
        top = heading_height(picture)
        return all(boxes_drawn(picture, known, left, top, (640, 480)) == count for left in lefts)

    with window(screen, tmp_path, int8_model, "--compare", MODEL, "--source", clip):
        until(lambda: drawn(0, 640), "boxes in both halves")
        screen.press("b")
        until(lambda: (screen.picture()[:, 700:] == 0).mean() > 0.9, "one picture instead of two")
        until(lambda: drawn(0), "boxes in it")
        screen.press("s")
        path = until(lambda: list(tmp_path.glob("detq-*.png")), "a snapshot")[0]
        until(lambda: b"IEND" in path.read_bytes()[-12:], "a whole snapshot")
        screen.press("q")
    snapshot = np.asarray(cv2.imread(str(path)), np.uint8)
    assert snapshot.shape[1] == 640
    assert boxes_drawn(snapshot, known, 0, heading_height(snapshot), (640, 480)) == count


def test_keys_for_help_and_pause(screen: Screen, clip: Path, known: Known, tmp_path: Path) -> None:
    with window(screen, tmp_path, MODEL, "--source", clip):
        until(
            lambda: boxes_drawn(
                screen.picture(), known, 0, heading_height(screen.picture()), (640, 480)
            ),
            "a picture",
        )
        screen.press("space")
        until(lambda: _stands_still(screen), "a picture that stands still")
        still = screen.picture()
        screen.press("h")
        until(lambda: (screen.picture() != still).mean() > 0.02, "the help")
        screen.press("h")
        until(lambda: bool((screen.picture() == still).all()), "the picture without help")
        screen.press("Escape")


def test_several_sources_share_the_window(
    screen: Screen, clip: Path, known: Known, tmp_path: Path
) -> None:
    width, height = panel_size((480, 640), 2, 1)
    sources = ("--source", clip, "--source", clip)

    def drawn(left: int) -> bool:
        picture = screen.picture()
        top = heading_height(picture)
        return boxes_drawn(picture, known, left, top, (width, height)) == len(known.truth)

    with window(screen, tmp_path, MODEL, *sources, "--track", "--every", "2"):
        until(lambda: drawn(0) and drawn(width), "boxes of both")
        screen.press("q")


def test_close_button_ends_the_program(screen: Screen, clip: Path, tmp_path: Path) -> None:
    with window(screen, tmp_path, MODEL, "--source", clip):
        screen.push_close_button(screen.window("detq"))


def test_interrupt_is_a_clean_end(screen: Screen, clip: Path, tmp_path: Path) -> None:
    with window(screen, tmp_path, MODEL, "--source", clip) as process:
        process.send_signal(signal.SIGINT)


def _stands_still(screen: Screen) -> bool:
    """Half a second later the picture is the same, figures and all."""
    before = screen.picture()
    time.sleep(0.5)
    return bool((screen.picture() == before).all())


@pytest.mark.parametrize("display", [None, ":4321"], ids=["no display", "dead display"])
def test_no_screen_is_one_line(clip: Path, tmp_path: Path, display: str | None) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    if display is not None:
        environment["DISPLAY"] = display
    done = subprocess.run(
        (*COMMAND, "demo", MODEL, "--source", clip),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: no screen to open a window on")
    assert "Traceback" not in done.stderr
