"""The page's server: FastAPI for the routes, uvicorn for the network."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import ssl
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Response, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

import detq

from .connection import BoundedConnection, PromptConnection
from .contenders import Contender, execution, title
from .door import QUERY_KEY, Guard, is_loopback
from .limits import MESSAGE_BYTES, MOST_VIEWERS, MOST_VISITORS
from .live import MEDIA_TYPE, LiveView
from .messages import Settings
from .runner import Thresholds
from .sight import Following
from .visitor import Visitor
from .workers import Workers

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/boxes.js": ("boxes.js", "text/javascript; charset=utf-8"),
    "/plot.js": ("plot.js", "text/javascript; charset=utf-8"),
    "/theme.js": ("theme.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Address -> file of the page and its kind. They are read at the start, and no other ever is."""
SAMPLE = "/sample.jpg"
SHUTDOWN_S = 2
VISITORS_FRAMES_PER_S = 30.0
"""What a camera gives; how far apart pictures really are is measured."""
TRY_LATER, FULL = 1013, "The demo is full; try again later."


class Demo:
    """What the routes share."""

    def __init__(
        self,
        workers: Workers,
        contenders: Sequence[Contender],
        thresholds: Thresholds,
        live: LiveView | None,
        *,
        track: bool,
    ) -> None:
        self.workers = workers
        self.contenders = contenders
        self.thresholds = thresholds
        self.live = live
        self.track = track
        self.visitors = 0
        sample = detq.sample_picture(contenders[0].alone)
        self.sample = None if sample is None else sample.read_bytes()

    def hello(self) -> str:
        """What a page has to know."""
        models = [
            {
                "title": title(contender.alone),
                "name": contender.name,
                "precision": execution(contender.alone),
                "size_hw": contender.size_hw,
                "classes": contender.class_names,
            }
            for contender in self.contenders
        ]
        return json.dumps(
            {
                "type": "hello",
                "models": models,
                "model": len(models) - 1,
                "confidence": self.thresholds.confidence,
                "iou": self.thresholds.iou,
                "sample": SAMPLE if self.sample is not None else None,
                "source": None if self.live is None else self.live.title,
            }
        )

    def tracks(self) -> detq.Tracks | None:
        """Of a visitor, if there are to be any."""
        following = Following(track=self.track)
        return following.tracks(self.thresholds.confidence, VISITORS_FRAMES_PER_S)

    @property
    def first_settings(self) -> Settings:
        """Of a visitor who has not chosen yet."""
        return Settings(
            confidence=max(self.thresholds.confidence, 0.01),
            iou=self.thresholds.iou,
            model=len(self.contenders) - 1,
        )


def application(demo: Demo) -> FastAPI:
    """The routes: files of the page, a sample, the server's own source, the WebSocket."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for path, (name, kind) in PAGE.items():
        content = (files(__package__) / "page" / name).read_bytes()
        app.add_api_route(path, _sends(content, kind), methods=["GET", "HEAD"])
    if demo.sample is not None:
        app.add_api_route(SAMPLE, _sends(demo.sample, "image/jpeg"), methods=["GET", "HEAD"])

    @app.get("/live.mjpg")
    async def live(model: int = 0) -> Response:
        if demo.live is None or not 0 <= model < len(demo.contenders):
            return PlainTextResponse("There is no such stream.", 404)
        if demo.live.viewers >= MOST_VIEWERS:
            return PlainTextResponse(FULL, 503)
        return StreamingResponse(demo.live.pictures(model), media_type=MEDIA_TYPE)

    @app.get("/live.json")
    async def figures(model: int = 0) -> Response:
        return JSONResponse(None if demo.live is None else demo.live.figures(model))

    @app.websocket("/ws")
    async def connect(websocket: WebSocket) -> None:
        await websocket.accept()
        if demo.visitors >= MOST_VISITORS:
            await websocket.close(TRY_LATER, FULL)
            return
        demo.visitors += 1
        demo.workers.loop = asyncio.get_running_loop()
        tracks = demo.tracks()
        visitor = Visitor(
            websocket, demo.workers.turns, demo.first_settings, len(demo.contenders), tracks
        )
        try:
            await visitor.stay(demo.hello())
        finally:
            demo.visitors -= 1

    return app


def serve(
    contenders: Sequence[Contender],
    *,
    live: LiveView | None,
    thresholds: Thresholds,
    track: bool,
    host: str,
    port: int,
    certificate: Path | None,
) -> None:
    """Until Ctrl-C. Prints the page's address. Raises DetqError if it cannot listen there."""
    _check_certificate(certificate)
    with _listening(host, port) as listener, Workers(contenders) as workers:
        port = listener.getsockname()[1]
        token = None if is_loopback(host) else secrets.token_urlsafe(24)
        demo = Demo(workers, contenders, thresholds, live, track=track)
        config = uvicorn.Config(
            Guard(application(demo), host=host, port=port, token=token),
            http=PromptConnection,
            ws=BoundedConnection,
            ws_max_size=MESSAGE_BYTES,
            ws_per_message_deflate=False,
            limit_concurrency=2 * (MOST_VISITORS + MOST_VIEWERS),
            timeout_graceful_shutdown=SHUTDOWN_S,
            ssl_certfile=certificate,
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_level="error",
            lifespan="off",
        )
        print(f"open {_address(host, port, token, secure=certificate is not None)}", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


def _sends(content: bytes, kind: str) -> Callable[[], Response]:
    def send() -> Response:
        return Response(content, media_type=kind)

    return send


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # before the address is printed: who comes at once waits, not fails
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise detq.DetqError(
            f"{host}:{port}: cannot listen there ({error.strerror}); pass another --port or --host"
        ) from None
    return listener


def _check_certificate(certificate: Path | None) -> None:
    if certificate is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate)
    except OSError as error:
        raise detq.DetqError(
            f"{certificate}: not a PEM file with a certificate and its key ({error})"
        ) from None


def _address(host: str, port: int, token: str | None, *, secure: bool) -> str:
    """Where a browser on this machine, or on another, finds the page."""
    everywhere = host in ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
    name = socket.gethostname() if everywhere else host
    if ":" in name:
        name = f"[{name}]"
    query = "" if token is None else f"?{QUERY_KEY}={token}"
    return f"{'https' if secure else 'http'}://{name}:{port}/{query}"
