"""A web server of this machine for tests, whose files behave as they are told to."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

LOGIN = "me:secret"


class Website(ThreadingHTTPServer):
    """``files`` are by their paths; what is asked for under a name in ``told`` goes wrong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.headers: list[dict[str, str]] = []

    def at(self, path: str, *, login: str = "") -> str:
        """The address of a file."""
        return f"http://{login and login + '@'}127.0.0.1:{self.server_port}/{path}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Website)
        self.server.headers.append(dict(self.headers))
        place = self.path.partition("?")[0].removeprefix("/")
        how, _, name = place.rpartition("/")
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
        elif how == "private" and self.headers["Authorization"] != _basic(LOGIN):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="tests"')
            self.end_headers()
        elif how == "elsewhere":
            self.send_response(302)
            self.send_header("Location", f"/{name}")
            self.end_headers()
        elif how == "silent":
            self.close_connection = True
        elif how == "nonsense":
            self.wfile.write(b"no protocol\r\n\r\n")
        else:
            with suppress(ConnectionError):
                self._send(how, content)

    def _send(self, how: str, content: bytes) -> None:
        self.send_response(200)
        if how == "chunked":  # half of a chunk
            self.send_header("Transfer-Encoding", "chunked")
        elif how != "endless":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if how == "chunked":
            self.wfile.write(f"{len(content):x}\r\n".encode())
        kept = len(content) // 2 if how in ("short", "chunked") else len(content)
        self.wfile.write(content[:kept])
        while how == "endless":
            self.wfile.write(bytes(1 << 16))

    def log_message(self, *_: object) -> None:
        """Quiet."""


def _basic(login: str) -> str:
    return f"Basic {b64encode(login.encode()).decode()}"


@contextmanager
def website() -> Iterator[Website]:
    """One that runs until the block ends."""
    with Website() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
