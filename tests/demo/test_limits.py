from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from detq.demo.limits import (
    BYTE_BURST,
    BYTES_PER_S,
    FRAME_BYTES,
    MESSAGE_BURST,
    MESSAGES_PER_S,
    Pace,
)


@given(st.lists(st.integers(0, FRAME_BYTES), max_size=300))
def test_nobody_sends_faster_than_the_limits(sizes: list[int]) -> None:
    """Whoever waits as told stays below rate x time + burst, in messages and in bytes."""
    pace = Pace()
    start_s = now_s = time.monotonic()
    for size in sizes:
        now_s += pace.due_s(size, now_s)
    passed_s = now_s - start_s + 1  # the clock ran on meanwhile
    assert len(sizes) <= MESSAGE_BURST + passed_s * MESSAGES_PER_S
    assert sum(sizes) <= BYTE_BURST + passed_s * BYTES_PER_S


def test_camera_is_never_held_up() -> None:
    """Thirty frames of 60 kB per second, for a minute."""
    pace = Pace()
    start_s = time.monotonic()
    assert all(pace.due_s(60_000, start_s + n / 30) == 0 for n in range(1800))
