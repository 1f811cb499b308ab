from __future__ import annotations

from collections import Counter
from threading import Thread

from hypothesis import given
from hypothesis import strategies as st

from detq.demo.turns import Turns


@given(st.integers(1, 8), st.integers(1, 3), st.lists(st.integers(0, 2), max_size=80))
def test_who_always_wants_gets_an_equal_share(
    visitors: int, workers: int, order: list[int]
) -> None:
    """Whichever worker is done first, no visitor is ahead of another by more than two frames."""
    turns: Turns[int, str] = Turns()
    for visitor in range(visitors):
        turns.join(visitor)
        turns.offer(visitor, "frame")
    work: list[int] = []
    served: Counter[int] = Counter(dict.fromkeys(range(visitors), 0))
    for choice in order:
        while len(work) < min(workers, visitors):
            taken = turns.take()
            assert taken is not None
            assert taken[0] not in work  # one in work at most
            work.append(taken[0])
            turns.offer(taken[0], "frame")
        visitor = work.pop(choice % len(work))
        served[visitor] += 1
        turns.finish(visitor)
    if workers == 1:
        assert max(served.values()) - min(served.values()) <= 1


def test_greedy_visitor_gets_no_more_than_the_modest() -> None:
    turns: Turns[str, int] = Turns()
    for visitor in ("greedy", "modest"):
        turns.join(visitor)
    taken = []
    for number in range(10):
        for _ in range(50):
            turns.offer("greedy", number)
        turns.offer("modest", number)
        for _ in range(2):
            turn = turns.take()
            assert turn is not None
            taken.append(turn[0])
            turns.finish(turn[0])
    assert taken.count("greedy") == taken.count("modest")


def test_newest_frame_wins() -> None:
    turns: Turns[str, int] = Turns()
    turns.join("a")
    assert not turns.offer("a", 1)
    assert turns.offer("a", 2)
    assert turns.take() == ("a", 2)


def test_who_has_no_answer_yet_is_not_served_again() -> None:
    turns: Turns[str, int] = Turns()
    for visitor in ("slow", "quick"):
        turns.join(visitor)
        turns.offer(visitor, 1)
    assert turns.take() == ("slow", 1)
    turns.offer("slow", 2)
    assert turns.take() == ("quick", 1)
    turns.finish("quick")
    turns.offer("quick", 2)
    assert turns.take() == ("quick", 2)
    turns.finish("slow")
    assert turns.take() == ("slow", 2)


def test_who_left_is_forgotten() -> None:
    turns: Turns[str, int] = Turns()
    for visitor in ("gone", "here"):
        turns.join(visitor)
        turns.offer(visitor, 1)
    turns.leave("gone")
    assert turns.take() == ("here", 1)
    assert not turns.offer("gone", 2)
    turns.finish("gone")


def test_close_lets_waiting_workers_go() -> None:
    turns: Turns[str, int] = Turns()
    got: list[object] = []
    worker = Thread(target=lambda: got.append(turns.take()))
    worker.start()
    turns.close()
    worker.join(30)
    assert got == [None]
