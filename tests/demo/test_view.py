from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detq.demo.runner import Thresholds
from detq.demo.view import ESCAPE, HELP, KEYS, LEAST_CONFIDENCE, MOST_CONFIDENCE, View, press

FIRST = View(2, Thresholds(0.25, 0.45), active=1, is_split=True)


def pressed(view: View, keys: str) -> View:
    for key in keys:
        view = press(view, key)
    return view


def test_toggles_toggle() -> None:
    for key in " hb":
        assert press(FIRST, key) != FIRST
        assert pressed(FIRST, 2 * key) == FIRST


def test_split_shows_both_from_left_to_right() -> None:
    assert FIRST.shown == (0, 1)
    assert press(FIRST, "b").shown == (1,)
    assert pressed(FIRST, "bm").shown == (0,)
    assert pressed(FIRST, "bmm").shown == (1,)


def test_one_model_has_no_other() -> None:
    alone = View(1, Thresholds(0.25, 0.45))
    assert pressed(alone, "mb").shown == (0,)


def test_quit_keys() -> None:
    assert press(FIRST, "q").has_quit
    assert press(FIRST, ESCAPE).has_quit


@given(st.text(max_size=60))
def test_any_keys_give_a_view_that_can_be_shown(keys: str) -> None:
    view = pressed(FIRST, keys)
    assert LEAST_CONFIDENCE <= view.thresholds.confidence <= MOST_CONFIDENCE
    assert set(view.shown) <= {0, 1}
    assert view.shown
    assert view.snapshots == keys.count("s")


def test_help_names_every_key() -> None:
    named = {part for keys, _ in HELP for part in keys.split()}
    words = {" ": "space", "\t": "tab", ESCAPE: "esc", "=": "+", "_": "-"}
    assert {words.get(key, key) for key in KEYS} == named
