"""What one visitor of the page may ask of the machine."""

from __future__ import annotations

import asyncio
import time

MOST_VISITORS = 64
MOST_VIEWERS = 32
"""Of the server's own source, as a stream of pictures."""
FRAME_BYTES = 2 << 20
MESSAGE_BYTES = 2 * FRAME_BYTES
"""What the connection takes at all; between the two, a visitor is told and stays."""
SETTINGS_BYTES = 4096
LONGEST_SIDE_PX = 4096
MOST_PIXELS = 4_200_000
MESSAGES_PER_S = 60.0
MESSAGE_BURST = 60
BYTES_PER_S = 8e6
BYTE_BURST = 4 * FRAME_BYTES
SEND_S = 10.0
"""A visitor who takes so long to read an answer is gone."""
GOODBYE_S = 1.0
ASK_S = 10.0
"""A connection over which nothing was asked for so long is closed."""


class Pace:
    """Holds a visitor to :data:`MESSAGES_PER_S` and :data:`BYTES_PER_S`, bursts allowed.

    Whoever sends more is read more slowly: the network makes it wait, nothing piles up here.
    """

    def __init__(self) -> None:
        self._messages = float(MESSAGE_BURST)
        self._bytes = float(BYTE_BURST)
        self._seen_s = time.monotonic()

    def due_s(self, size: int, now_s: float) -> float:
        """Count a message of ``size`` bytes; how long to wait before the next is read."""
        passed_s, self._seen_s = now_s - self._seen_s, now_s
        self._messages = min(MESSAGE_BURST, self._messages + passed_s * MESSAGES_PER_S) - 1
        self._bytes = min(BYTE_BURST, self._bytes + passed_s * BYTES_PER_S) - size
        return max(0.0, -self._messages / MESSAGES_PER_S, -self._bytes / BYTES_PER_S)

    async def keep(self, size: int) -> None:
        """Wait until the next message may be read."""
        await asyncio.sleep(self.due_s(size, time.monotonic()))
