"""What the viewer chose, and how keys change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from .runner import Thresholds

STEP = 0.05
LEAST_CONFIDENCE, MOST_CONFIDENCE = 0.05, 0.95
ESCAPE, TAB = "\x1b", "\t"
HELP = (
    ("space", "pause, and go on"),
    ("+  -", "score threshold up, down"),
    ("m  tab", "the other model"),
    ("b", "both side by side, or one"),
    ("s", "keep this picture (PNG)"),
    ("h  ?", "this help"),
    ("q  esc", "quit"),
)


@dataclass(frozen=True)
class View:
    """Which of ``models`` is shown, or both side by side, and how."""

    models: int
    thresholds: Thresholds
    active: int = 0
    is_split: bool = False
    is_paused: bool = False
    shows_help: bool = False
    has_quit: bool = False
    snapshots: int = 0

    @property
    def shown(self) -> tuple[int, ...]:
        """Numbers of the models in the window, from left to right."""
        return tuple(range(self.models)) if self.is_split else (self.active,)


def press(view: View, key: str) -> View:
    """The view after a key; any other key changes nothing."""
    change = KEYS.get(key)
    return view if change is None else change(view)


def _with_confidence(view: View, change: float) -> View:
    wanted = round(view.thresholds.confidence + change, 2)
    confidence = min(max(wanted, LEAST_CONFIDENCE), MOST_CONFIDENCE)
    return replace(view, thresholds=replace(view.thresholds, confidence=confidence))


def _with_other_model(view: View) -> View:
    return replace(view, is_split=False, active=(view.active + 1) % view.models)


KEYS: Mapping[str, Callable[[View], View]] = {
    " ": lambda view: replace(view, is_paused=not view.is_paused),
    "+": lambda view: _with_confidence(view, STEP),
    "-": lambda view: _with_confidence(view, -STEP),
    "m": _with_other_model,
    "b": lambda view: replace(view, is_split=view.models > 1 and not view.is_split),
    "s": lambda view: replace(view, snapshots=view.snapshots + 1),
    "h": lambda view: replace(view, shows_help=not view.shows_help),
    "q": lambda view: replace(view, has_quit=True),
}
KEYS = {**KEYS, "=": KEYS["+"], "_": KEYS["-"], TAB: KEYS["m"], "?": KEYS["h"], ESCAPE: KEYS["q"]}
