"""uvicorn's WebSocket connection, with bounds where it has none."""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

MOST_PARTS = 64
"""Of one message; empty parts would count for nothing in its size."""


class BoundedConnection(WebSocketsSansIOProtocol):
    """Ends when a peer makes it hold what the peer does not read, or a message in endless parts."""

    def handle_ping(self) -> None:
        """Answer, unless earlier answers are still waiting to be read."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.transport.abort()

    def handle_cont(self, event: Frame) -> None:
        """A further part of a message."""
        if len(self.frames) < MOST_PARTS:
            super().handle_cont(event)
        else:
            self.transport.abort()
