"""One connection of the page: what it sends is checked and queued, what it gets is bounded."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.websockets import WebSocket, WebSocketDisconnect

import detq

from .limits import GOODBYE_S, SEND_S, Pace
from .messages import (
    RefusedError,
    Settings,
    Upload,
    error_text,
    read_settings,
    read_upload,
)
from .turns import Turns

ANSWERS = 8
"""That wait for a visitor who reads slowly; further errors are not told."""


class Visitor:
    """Between a WebSocket and the workers. Lives in the event loop's thread, as all its methods.

    ``tracks``, if any, are for the worker that has the visitor's frame, one at a time.
    """

    def __init__(
        self,
        websocket: WebSocket,
        turns: Turns[Visitor, Upload],
        settings: Settings,
        models: int,
        tracks: detq.Tracks | None,
    ) -> None:
        self.settings = settings
        self.tracks = tracks
        self._websocket = websocket
        self._turns = turns
        self._models = models
        self._answers: asyncio.Queue[tuple[str, bool]] = asyncio.Queue(ANSWERS + 1)

    async def stay(self, hello: str) -> None:
        """From the first message to the last."""
        await self._websocket.send_text(hello)
        self._turns.join(self)
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._speak())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._turns.leave(self)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect):
                await asyncio.wait_for(self._websocket.close(), GOODBYE_S)

    def deliver(self, text: str) -> None:
        """The answer to the frame in work."""
        self._answers.put_nowait((text, True))  # one frame is in work at most: there is room

    async def _listen(self) -> None:
        pace = Pace()
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            content = message.get("bytes")
            text = message.get("text") or ""
            try:
                if content is None:
                    self.settings = read_settings(text, self._models)
                else:
                    self._turns.offer(self, read_upload(content))
            except RefusedError as error:
                self._complain(str(error))
            await pace.keep(len(text if content is None else content))

    def _complain(self, message: str) -> None:
        if self._answers.qsize() < ANSWERS:
            self._answers.put_nowait((error_text(message), False))

    async def _speak(self) -> None:
        while True:
            text, is_result = await self._answers.get()
            try:
                await asyncio.wait_for(self._websocket.send_text(text), SEND_S)
            except (TimeoutError, WebSocketDisconnect, RuntimeError, OSError):
                return
            if is_result:  # only now: who reads slowly costs no more than that
                self._turns.finish(self)
