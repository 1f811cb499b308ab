from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detq import Detections, Frame, class_color
from detq.demo.overlay import AMBER, GREEN, LARGEST_WH, Panel, Status, Strip, compose, panel_size
from detq.demo.sight import Result
from detq.demo.view import HELP

STATUS = Status(0.25)
NAMES = ("cat", "dog")


def result(frames_per_s: float, *, height: int = 240, width: int = 320) -> Result:
    """One dog in the middle of a grey picture."""
    box = np.array([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]], np.float32)
    found = Detections(box, np.array([0.9], np.float32), np.array([1]))
    image = np.full((height, width, 3), 128, np.uint8)
    frame = Frame(0, image, found, read_ms=1, place_ms=1, infer_ms=5, post_ms=1, age_ms=9)
    return Result(frame, frames_per_s)


def strip(*panels: Panel) -> Strip:
    return Strip("a source", panels)


@pytest.mark.parametrize(("first", "second", "ink"), [(10, 25, GREEN), (25, 10, AMBER)])
def test_only_what_is_faster_is_green(first: float, second: float, ink: tuple[int, ...]) -> None:
    panels = [Panel("m", NAMES, result(per_s)) for per_s in (first, second)]
    canvas = compose([strip(*panels)], STATUS)
    inks = {each for each in (GREEN, AMBER) if (canvas == np.array(each)).all(axis=2).any()}
    assert inks == {ink}


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 2))
def test_every_picture_fits_the_screen_and_an_encoder(height: int, width: int, count: int) -> None:
    shown = panel_size((height, width), count)
    assert all(side % 2 == 0 for side in shown)
    assert count * shown[0] <= LARGEST_WH[0] + 2
    assert shown[1] <= LARGEST_WH[1] + 2


@pytest.mark.parametrize("size", [(240, 320), (1080, 1920), (640, 360)])
def test_boxes_are_drawn_where_they_are(size: tuple[int, int]) -> None:
    height, width = size
    canvas = compose([strip(Panel("m", NAMES, result(9, height=height, width=width)))], STATUS)
    shown = panel_size(size, 1)
    assert canvas.shape[1] == shown[0]
    near = np.abs(canvas.astype(int) - class_color(1)).max(axis=2) < 40
    columns = np.flatnonzero(near.mean(axis=0) > 0.3)  # the two upright lines
    assert abs(columns.min() - shown[0] / 4) < 4
    assert abs(columns.max() - shown[0] * 3 / 4) < 4


def test_size_does_not_change_while_it_runs() -> None:
    """A video has one size from its first picture on."""
    ready, tall = Panel("a", NAMES, result(9)), Panel("b", NAMES, result(2, height=900, width=30))
    shown: list[list[Strip]] = [
        [strip(ready, Panel("b", NAMES, None)), strip(ready, ready)],
        [strip(ready, tall), strip(tall, Panel("b", NAMES, result(1000.123)))],
        [Strip("s" * 200, [ready, ready], "a notice " * 30), strip(tall, tall)],
    ]
    statuses = [STATUS, Status(0.9, True, HELP, "a hint")]
    sizes = {compose(each, status, (240, 320)).shape for each in shown for status in statuses}
    assert len(sizes) == 1


CHANGES: dict[str, tuple[Status, str | None]] = {
    "paused": (Status(0.25, is_paused=True), None),
    "threshold": (Status(0.5), None),
    "help": (Status(0.25, help_lines=HELP), None),
    "hint": (Status(0.25, hint="h: help"), None),
    "notice": (STATUS, "dropped"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_is_seen(change: str) -> None:
    panel = Panel("a", NAMES, result(9))
    status, notice = CHANGES[change]
    changed = compose([Strip("a source", [panel], notice)], status)
    assert (changed != compose([strip(panel)], STATUS)).any()


@given(st.integers(1, 12), st.integers(1, 2))
def test_every_source_has_its_place_in_the_grid(sources: int, models: int) -> None:
    """What one source shows changes a rectangle of the picture in which no other shows anything."""
    panels = [Panel("m", NAMES, result(9)) for _ in range(models)]
    rest = [Strip(f"camera {number}", panels) for number in range(sources)]
    before = compose(rest, STATUS)
    taken = np.zeros(before.shape[:2], bool)
    for number in range(sources):
        strips = [*rest]
        strips[number] = Strip(f"camera {number}", panels, "dropped: trying again in 0.5 s")
        changed = (compose(strips, STATUS) != before).any(axis=2)
        rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
        place = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        assert not taken[place].any()
        taken[place] = True


def test_whole_notice_can_be_read_however_narrow_the_panel() -> None:
    words = [f"word{number}" for number in range(30)]
    strips = [Strip(f"{n}", [Panel("m", NAMES, result(9))], " ".join(words)) for n in range(9)]
    before = compose(strips, STATUS)
    strips[4] = Strip("4", strips[4].panels, " ".join([*words[:-1], "wordXX"]))
    assert (compose(strips, STATUS) != before).any()


def test_numbers_of_tracks_are_drawn() -> None:
    found = result(9)
    drawn = [
        compose([strip(Panel("m", NAMES, replace(found, track_ids=ids)))], STATUS)
        for ids in ((), (-1,), (7,), (8,))
    ]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[1] != drawn[2]).any()
    assert (drawn[2] != drawn[3]).any()


def test_second_panel_says_how_much_faster_it_is() -> None:
    first, second = Panel("a", NAMES, result(10)), Panel("a", NAMES, result(30))
    beside = compose([strip(first, second)], STATUS)
    alone = compose([strip(first, Panel("a", NAMES, result(30)))], STATUS)
    assert (beside == alone).all()
    slower = compose([strip(Panel("a", NAMES, result(20)), second)], STATUS)
    half = beside.shape[1] // 2
    assert (slower[:, half + 2 :] != beside[:, half + 2 :]).any()  # 1.5x instead of 3.0x
