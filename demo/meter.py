"""How often something happens."""

from __future__ import annotations

from collections import deque

WINDOW_S = 2.0


class Meter:
    """Events per second over the last :data:`WINDOW_S`."""

    def __init__(self) -> None:
        self._times_s: deque[float] = deque()

    def tick(self, now_s: float) -> float:
        """Count an event, and say how many there are per second; 0 for the first."""
        times = self._times_s
        times.append(now_s)
        while now_s - times[0] > WINDOW_S and len(times) > 2:
            times.popleft()
        span_s = now_s - times[0]
        return (len(times) - 1) / span_s if span_s > 0 else 0.0
