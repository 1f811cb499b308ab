"""Sources and the models at work on them, as the viewer's choices ask for them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from detq import ImageBGR, Newest, Source

from .contenders import Contender
from .overlay import Panel, SizeHW, Status, Strip, compose, shape_of
from .runner import Runner
from .sight import Following
from .view import HELP, View


class Stage:
    """Starts and stops runners so that those of the view run, and no other; a context manager."""

    def __init__(
        self,
        contenders: Sequence[Contender],
        sources: Sequence[Source],
        view: View,
        following: Following,
    ) -> None:
        for number in view.shown:  # before the sources begin, so that nothing of them is missed
            contenders[number].compiled(beside=len(view.shown) > 1)
        self._contenders = contenders
        self._following = following
        self._newest = Newest(sources)
        self._runners: dict[int, Runner] = {}
        self._view = view
        self._shape_hw: SizeHW | None = None
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
        return (self._view, self._newest.notices, counts)

    @property
    def frames_per_s(self) -> tuple[float, ...]:
        """Of each model, from left to right, of all sources; 0 before it has shown anything."""
        return tuple(
            sum(result.frames_per_s for result in list(runner.results.values()))
            for runner in self._runners.values()
        )

    @property
    def has_ended(self) -> bool:
        """True if all sources have ended and every model is done with them."""
        return bool(self._runners) and all(runner.has_ended for runner in self._runners.values())

    @property
    def has_picture(self) -> bool:
        """True once every model of the view has shown something of all sources that work."""
        wanted = self._newest.sources.keys() - self._newest.errors.keys()
        return all(wanted <= runner.results.keys() for runner in self._runners.values())

    def follow(self, view: View) -> None:
        """Make it as the view says. Raises what ended a runner, or all sources."""
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
        errors = self._newest.errors
        if len(errors) == len(self._newest.sources):
            raise next(iter(errors.values()))

    def picture(self, hint: str = "") -> ImageBGR:
        """What there is to see now: uint8 [H, W, 3] BGR, of one size from the first picture on.

        ``hint`` stands below each picture.
        """
        shown = strips(self._runners.values(), self._newest)
        self._shape_hw = self._shape_hw or shape_of(shown)
        status = Status(
            confidence=self._view.thresholds.confidence,
            is_paused=self._view.is_paused,
            help_lines=HELP if self._view.shows_help else (),
            hint=hint,
        )
        return compose(shown, status, self._shape_hw)

    def _start_runners(self) -> None:
        self._stop_runners()
        shown, thresholds = self._view.shown, self._view.thresholds
        self._runners = {
            number: Runner(
                self._contenders[number],
                self._newest,
                beside=len(shown) > 1,
                thresholds=thresholds,
                following=self._following,
            )
            for number in shown
        }

    def _stop_runners(self) -> None:
        for runner in self._runners.values():
            runner.stop()


def strips(runners: Collection[Runner], newest: Newest) -> list[Strip]:
    """Of each source a strip, of each model a panel in it."""
    notices = newest.notices
    return [
        Strip(
            source,
            [
                Panel(runner.title, runner.contender.class_names, runner.results.get(source))
                for runner in runners
            ],
            notices.get(source),
        )
        for source in newest.sources
    ]
