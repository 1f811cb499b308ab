"""uvicorn's connections, with bounds where they have none."""

from __future__ import annotations

from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from .limits import ASK_S

MOST_PARTS = 64
"""Of one message; empty parts would count for nothing in its size."""


class BoundedConnection(WebSocketsSansIOProtocol):
    """A WebSocket that keeps nothing for a peer who does not read, nor endless parts."""

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

    async def run_asgi(self) -> None:
        """The whole visit. What was not read by its end is thrown away."""
        await super().run_asgi()
        if not self.writable.is_set():
            self.transport.abort()


class PromptConnection(H11Protocol):
    """A connection that is closed if nothing is asked over it in time."""

    _patience: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self._patience = self.loop.call_later(ASK_S, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def _check(self) -> None:
        upgraded = self.transport.get_protocol() is not self
        if self.cycle is None and not upgraded:
            self.transport.abort()
