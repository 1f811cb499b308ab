"""A source and the models at work on it, as the viewer's choices ask for them."""

from __future__ import annotations

from collections.abc import Sequence

from detq import ImageBGR, Source

from .contenders import Contender
from .newest import Newest
from .overlay import Panel, Status, compose
from .runner import Runner
from .view import HELP, View


class Stage:
    """Starts and stops runners so that those of the view run, and no other; a context manager."""

    def __init__(self, contenders: Sequence[Contender], source: Source, view: View) -> None:
        for number in view.shown:  # before the source begins, so that nothing of it is missed
            contenders[number].compiled(beside=len(view.shown) > 1)
        self._contenders = contenders
        self._newest = Newest(source)
        self._runners: dict[int, Runner] = {}
        self._view = view
        self._start_runners()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_runners()
        self._newest.close()

    @property
    def state(self) -> tuple[object, ...]:
        """Changes whenever there is something new to see."""
        counts = tuple(runner.count for runner in self._runners.values())
        return (self._view, self._newest.notice, counts)

    @property
    def frames_per_s(self) -> tuple[float, ...]:
        """Of each model, from left to right; 0 before it has shown anything."""
        results = [runner.result for runner in self._runners.values()]
        return tuple(0.0 if result is None else result.frames_per_s for result in results)

    @property
    def has_ended(self) -> bool:
        """True if the source has ended and every model is done with it."""
        return bool(self._runners) and all(runner.has_ended for runner in self._runners.values())

    @property
    def has_picture(self) -> bool:
        """True once every model of the view has shown something."""
        return all(runner.result is not None for runner in self._runners.values())

    def follow(self, view: View) -> None:
        """Make it as the view says. Raises what ended a runner."""
        if view != self._view:
            before, self._view = self._view, view
            if view.shown != before.shown:
                self._start_runners()
            for runner in self._runners.values():
                runner.tune(view.thresholds)
            self._newest.pause(view.is_paused)
        for runner in self._runners.values():
            if runner.error is not None:
                raise runner.error

    def picture(self) -> ImageBGR:
        """What there is to see now: uint8 [H, W, 3] BGR."""
        panels = [
            Panel(runner.title, runner.contender.class_names, runner.result)
            for runner in self._runners.values()
        ]
        status = Status(
            source=self._newest.source.title,
            confidence=self._view.thresholds.confidence,
            is_paused=self._view.is_paused,
            help_lines=HELP if self._view.shows_help else (),
            notice=self._newest.notice,
        )
        return compose(panels, status)

    def _start_runners(self) -> None:
        self._stop_runners()
        shown, thresholds = self._view.shown, self._view.thresholds
        self._runners = {
            number: Runner(
                self._contenders[number],
                self._newest,
                beside=len(shown) > 1,
                thresholds=thresholds,
            )
            for number in shown
        }

    def _stop_runners(self) -> None:
        for runner in self._runners.values():
            runner.stop()
