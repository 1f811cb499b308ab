from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detq.data.clips import Clip
from detq.data.images import ImageBGR
from detq.data.live import Camera, Say, Source, Wait
from detq.data.newest import Newest, Shot, watch
from detq.errors import DetqError

PATIENCE_S = 60.0


def grey(level: int) -> ImageBGR:
    return np.full((48, 64, 3), level % 256, np.uint8)


class Told:
    """A source whose pictures come, and which fails or ends, when a test says so."""

    is_live = True
    frames_per_s = 1000.0

    def __init__(self, title: str) -> None:
        self.title = title
        self._given = threading.Semaphore(0)
        self.shown = threading.Semaphore(0)
        self._end: DetqError | None = None
        self._is_over = False
        self.closed = threading.Event()

    def frames(self, say: Say, wait: Wait) -> Iterator[ImageBGR]:
        try:
            for number in count():
                while not self._given.acquire(timeout=0.01):
                    if wait(0):
                        return
                if self._end is not None:
                    raise self._end
                if self._is_over:
                    return
                yield grey(number)
                self.shown.release()
        finally:
            self.closed.set()

    def allow(self) -> None:
        """One picture, when there will be somebody who looks."""
        self._given.release()

    def give(self, pictures: int = 1) -> None:
        """So many, which are on offer when it returns."""
        for _ in range(pictures):
            self._given.release()
            assert self.shown.acquire(timeout=PATIENCE_S)

    def end(self, error: DetqError | None = None) -> None:
        self._end, self._is_over = error, True
        self._given.release()


class Endless:
    """Pictures as fast as they are made."""

    is_live = True
    frames_per_s = 1000.0
    title = "endless"

    def frames(self, say: Say, wait: Wait) -> Iterator[ImageBGR]:
        while not wait(0):
            yield grey(0)


def as_sources(*sources: Told | Endless | Camera | Clip) -> list[Source]:
    return [cast(Source, source) for source in sources]


def source_threads() -> int:
    return sum(thread.name == "source" for thread in threading.enumerate())


def wait_for_threads(running: int) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while source_threads() > running and time.monotonic() < end_s:
        time.sleep(0.001)
    assert source_threads() == running


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    yield
    wait_for_threads(0)


def shown(shot: Shot) -> tuple[str, int]:
    return shot.source, shot.index


def test_no_sources_is_no_shots() -> None:
    assert list(watch([])) == []


def test_newest_picture_is_taken_and_the_others_are_gone() -> None:
    one = Told("one")
    one.allow()
    with closing(watch(as_sources(one))) as shots:
        assert shown(next(shots)) == ("one", 0)
        assert one.shown.acquire(timeout=PATIENCE_S)
        one.give(4)
        shot = next(shots)
        assert shown(shot) == ("one", 4)
        assert isinstance(shot.image, np.ndarray)
        assert int(shot.image.mean()) == 4


def test_every_counts_what_was_delivered() -> None:
    one = Told("one")
    one.allow()
    with closing(watch(as_sources(one), every=3)) as shots:
        assert shown(next(shots)) == ("one", 0)
        assert one.shown.acquire(timeout=PATIENCE_S)
        one.give(4)
        assert shown(next(shots)) == ("one", 3)
        one.give(1)
        one.end()
        assert list(shots) == []


def test_source_that_fails_says_so_last_and_the_others_go_on() -> None:
    one, two = Told("one"), Told("two")
    one.allow()
    with closing(watch(as_sources(one, two))) as shots:
        assert shown(next(shots)) == ("one", 0)
        error = DetqError("one: cable pulled")
        one.end(error)
        shot = next(shots)
        assert (shown(shot), shot.image) == (("one", 1), error)
        for index in range(3):
            two.give()
            assert shown(next(shots)) == ("two", index)
        two.end()
        assert list(shots) == []


def test_source_that_fails_at_once_is_shot_zero() -> None:
    (shot,) = watch(as_sources(Camera(63)))
    assert shown(shot) == ("camera 63", 0)
    assert str(shot.image).startswith("camera 63: cannot be opened")


def test_error_is_not_lost_when_the_others_have_given_enough() -> None:
    """``most`` of all that go on was the end, whatever one that had failed had to say."""
    first, second, failing = Told("first"), Told("second"), Told("failing")
    first.allow()
    with closing(watch(as_sources(first, second, failing), most=1)) as shots:
        assert shown(next(shots)) == ("first", 0)
        failing.end(DetqError("failing: no"))
        second.give()
        wait_for_threads(2)
        assert [shown(shot) for shot in shots] == [("second", 0), ("failing", 0)]
    assert second.closed.is_set()


def test_most_is_of_each_source() -> None:
    one, two = Told("one"), Told("two")
    one.allow()
    with closing(watch(as_sources(one, two, Endless()), most=2)) as shots:
        seen = [next(shots).source for _ in range(3)]
        two.give()
        seen += [next(shots).source]
        two.give()
        seen += [next(shots).source]
        one.allow()
        seen += [shot.source for shot in shots]
    assert sorted(seen) == ["endless", "endless", "one", "one", "two", "two"]
    assert one.closed.is_set()
    assert two.closed.is_set()


def test_slow_source_is_not_starved_by_fast_ones() -> None:
    slow = Told("slow")
    with closing(watch(as_sources(Endless(), slow, Endless()))) as shots:
        next(shots)
        for index in range(20):
            slow.give()
            turns = [shown(shot) for shot in islice(shots, 3)]
            assert ("slow", index) in turns


def test_sources_take_turns() -> None:
    told = [Told("a"), Told("b"), Told("c")]
    told[1].allow()
    with closing(watch(as_sources(*told))) as shots:
        assert next(shots).source == "b"
        assert told[1].shown.acquire(timeout=PATIENCE_S)
        for source in told:
            source.give(2)
        assert [shown(next(shots)) for _ in told] == [("c", 1), ("a", 1), ("b", 2)]


@given(st.lists(st.sets(st.integers(0, 4), min_size=1), max_size=12))
def test_who_has_a_picture_is_served_before_another_is_again(rounds: list[set[int]]) -> None:
    """Whichever sources have newer pictures, each of them is served once, in the order of turns."""
    told = [Told(f"{number}") for number in range(5)]
    told[4].allow()
    with closing(watch(as_sources(*told))) as shots:
        last = int(next(shots).source)
        assert told[4].shown.acquire(timeout=PATIENCE_S)
        for waiting in rounds:
            for number in waiting:
                told[number].give(2)
            served = [int(next(shots).source) for _ in waiting]
            assert served == sorted(waiting, key=lambda number: (number <= last, number))
            last = served[-1]


def test_each_taker_sees_the_newest_of_every_source() -> None:
    """Two models compared look at the same sources, each as fast as it can."""
    told = [Told("a"), Told("b")]
    with closing(Newest(as_sources(*told))) as newest:
        one, two = newest.shots(), newest.shots()
        for source in told:
            source.give()
        assert {next(one).source for _ in told} == {"a", "b"}
        for source in told:
            source.give()
        assert {shown(next(two)) for _ in told} == {("a", 1), ("b", 1)}
        assert {shown(next(one)) for _ in told} == {("a", 1), ("b", 1)}


def test_sources_of_one_title_are_told_apart() -> None:
    names = ["a", "a (2)", "a", "a", "a (2)"]
    with closing(Newest(as_sources(*map(Told, names)))) as newest:
        assert list(newest.sources) == ["a", "a (2)", "a (3)", "a (4)", "a (2) (2)"]


def test_what_nobody_foresaw_is_raised_where_pictures_are_taken() -> None:
    class Broken(Told):
        def frames(self, say: Say, wait: Wait) -> Iterator[ImageBGR]:
            raise ZeroDivisionError
            yield grey(0)

    with pytest.raises(ZeroDivisionError):
        list(watch(as_sources(Broken("broken"))))


def test_times_are_from_the_beginning_and_grow() -> None:
    times = [shot.time_s for shot in watch(as_sources(Endless()), most=20)]
    assert times == sorted(times)
    assert times[0] >= 0


@pytest.mark.parametrize("end_s", [0.0, 0.05])
def test_end_is_kept_whatever_comes(end_s: float) -> None:
    shots = list(watch(as_sources(Endless(), Told("silent")), end_s=end_s))
    assert all(shot.time_s < end_s for shot in shots)
    assert end_s or not shots


def test_end_of_a_source_that_says_nothing() -> None:
    assert list(watch(as_sources(Told("silent")), end_s=0.02)) == []


def test_viewer_who_leaves_ends_the_sources() -> None:
    one, two = Told("one"), Told("two")
    one.allow()
    shots = watch(as_sources(one, two))
    next(shots)
    shots.close()
    assert one.closed.is_set()
    assert two.closed.is_set()


def test_nothing_runs_before_somebody_looks() -> None:
    shots = watch(as_sources(Endless()))
    assert source_threads() == 0
    shots.close()


def test_clips_to_their_ends(tmp_path: Path) -> None:
    for name, frames in (("a.avi", 5), ("b.avi", 9)):
        path = str(tmp_path / name)
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 100, (64, 48))
        for level in range(frames):
            writer.write(grey(20 * level))
        writer.release()
    clips = [Clip(str(tmp_path / name), repeats=False) for name in ("a.avi", "b.avi")]
    seen: dict[str, list[int]] = {"a.avi": [], "b.avi": []}
    for shot in watch(as_sources(*clips)):
        assert isinstance(shot.image, np.ndarray)
        assert shot.image.mean() == pytest.approx(20 * shot.index, abs=3)
        seen[shot.source].append(shot.index)
    for indices, last in ((seen["a.avi"], 4), (seen["b.avi"], 8)):
        assert indices == sorted(set(indices))
        assert indices[-1] == last
