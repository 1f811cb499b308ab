"""A real HTTP server in this process, which misbehaves in every way that a test asks for."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FileServer:
    """What it serves and how. ``requests`` and ``ranges`` tell what it was asked for."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    validators: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    cuts: list[int] = field(default_factory=list)
    """The next answers end after so many bytes of their body."""
    statuses: list[int] = field(default_factory=list)
    """The next answers are these errors."""
    redirects: dict[str, str] = field(default_factory=dict)
    """Name -> the address to ask instead."""
    headers: dict[str, str | None] = field(default_factory=dict)
    """Replace or remove headers of every answer."""
    ignores_range: bool = False
    ignores_if_range: bool = False
    part_begins_late: int = 0
    open_gate: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, Message]] = field(default_factory=list)

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.requests]

    @property
    def ranges(self) -> list[str | None]:
        return [headers["Range"] for _, headers in self.requests]

    def part(self, content: bytes, asked: Message) -> tuple[int, int]:
        """The status, and the first byte to send."""
        wanted = re.fullmatch(r"bytes=(\d+)-", asked["Range"] or "")
        current = asked["If-Range"] in (None, *self.validators.values())
        if not wanted or self.ignores_range or not (current or self.ignores_if_range):
            return 200, 0
        start = int(wanted[1])
        return (416, len(content)) if start >= len(content) else (206, start)


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/")
            server.requests.append((name, self.headers))
            server.open_gate.wait(5)
            if server.statuses:
                self.answer(server.statuses.pop(0), {}, b"no")
            elif name in server.redirects:
                self.answer(302, {"Location": server.redirects[name]}, b"there")
            elif name not in server.files:
                self.answer(404, {}, b"no")
            else:
                self.send_file(server.files[name])

        def send_file(self, content: bytes) -> None:
            status, start = server.part(content, self.headers)
            headers = dict(server.validators)
            if status == 416:
                headers["Content-Range"] = f"bytes */{len(content)}"
            if status == 206:
                start += server.part_begins_late
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.answer(status, headers, content[start:])

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            everything = {"Content-Length": str(len(body)), **headers, **server.headers}
            self.send_response(status)
            for key, value in everything.items():
                if value is not None:
                    self.send_header(key, value)
            self.end_headers()
            if status < 300 and server.cuts:
                body = body[: server.cuts.pop(0)]
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is what some tests are about."""


@contextmanager
def serve() -> Iterator[FileServer]:
    """A server that runs during the block."""
    server = FileServer()
    server.open_gate.set()
    with _Quiet(("127.0.0.1", 0), _handler(server)) as listening:
        server.address = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.open_gate.set()
            listening.shutdown()
            thread.join()
