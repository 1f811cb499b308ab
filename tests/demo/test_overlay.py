from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detq import Detections, Frame, class_color
from detq.demo.overlay import LARGEST_WH, Panel, Status, compose, panel_size
from detq.demo.runner import Result
from detq.demo.view import HELP

STATUS = Status("a source", 0.25)
NAMES = ("cat", "dog")


def result(frames_per_s: float, *, height: int = 240, width: int = 320) -> Result:
    """One dog in the middle of a grey picture."""
    box = np.array([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]], np.float32)
    found = Detections(box, np.array([0.9], np.float32), np.array([1]))
    image = np.full((height, width, 3), 128, np.uint8)
    frame = Frame(0, image, found, read_ms=1, place_ms=1, infer_ms=5, post_ms=1, age_ms=9)
    return Result(frame, frames_per_s)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 2))
def test_every_picture_fits_the_screen_and_an_encoder(height: int, width: int, count: int) -> None:
    shown = panel_size((height, width), count)
    assert all(side % 2 == 0 for side in shown)
    assert count * shown[0] <= LARGEST_WH[0] + 2
    assert shown[1] <= LARGEST_WH[1] + 2


@pytest.mark.parametrize("size", [(240, 320), (1080, 1920), (640, 360)])
def test_boxes_are_drawn_where_they_are(size: tuple[int, int]) -> None:
    height, width = size
    canvas = compose([Panel("m", NAMES, result(9, height=height, width=width))], STATUS)
    shown = panel_size(size, 1)
    assert canvas.shape[1] == shown[0]
    near = np.abs(canvas.astype(int) - class_color(1)).max(axis=2) < 40
    columns = np.flatnonzero(near.mean(axis=0) > 0.3)  # the two upright lines
    assert abs(columns.min() - shown[0] / 4) < 4
    assert abs(columns.max() - shown[0] * 3 / 4) < 4


def test_size_does_not_change_while_it_runs() -> None:
    """A video has one size from its first picture on."""
    ready = Panel("a", NAMES, result(9))
    panels: list[list[Panel]] = [
        [ready, Panel("b", NAMES, None)],
        [ready, Panel("b", NAMES, result(1000.123))],
    ]
    statuses = [STATUS, Status("s" * 200, 0.9, True, HELP, "a notice " * 30)]
    sizes = {compose(each, status).shape for each in panels for status in statuses}
    assert len(sizes) == 1


CHANGES: dict[str, Callable[[], Status]] = {
    "paused": lambda: Status("a source", 0.25, is_paused=True),
    "threshold": lambda: Status("a source", 0.5),
    "help": lambda: Status("a source", 0.25, help_lines=HELP),
    "notice": lambda: Status("a source", 0.25, notice="dropped"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_is_seen(change: str) -> None:
    panels = [Panel("a", NAMES, result(9))]
    assert (compose(panels, CHANGES[change]()) != compose(panels, STATUS)).any()


def test_second_panel_says_how_much_faster_it_is() -> None:
    first, second = Panel("a", NAMES, result(10)), Panel("a", NAMES, result(30))
    beside = compose([first, second], STATUS)
    alone = compose([first, Panel("a", NAMES, result(30))], STATUS)
    assert (beside == alone).all()
    slower = compose([Panel("a", NAMES, result(20)), second], STATUS)
    half = beside.shape[1] // 2
    assert (slower[:, half + 2 :] != beside[:, half + 2 :]).any()  # 1.5x instead of 3.0x
