from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from detq.demo.door import Guard, Receive, Scope, Send, content_policy, is_loopback

PORT = 8000
TOKEN = "a-good-token"


async def _inner(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


def ask(
    headers: dict[str, str],
    *,
    kind: str = "http",
    host: str = "127.0.0.1",
    token: str | None = None,
    query: str = "",
) -> list[MutableMapping[str, Any]]:
    """What is sent for a request with these headers."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": kind,
        "scheme": "ws" if kind == "websocket" else "http",
        "path": "/",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    guard = Guard(_inner, host=host, port=PORT, token=token)
    asyncio.run(guard(scope, receive, send))
    return sent


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1:8000", True),
        ("localhost:8000", True),
        ("[::1]:8000", True),
        ("127.0.0.1:8001", False),
        ("127.0.0.1", False),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example:8000", False),
        ("192.168.1.5:8000", False),
        ("user@127.0.0.1:8000", False),
        ("127.0.0.1:8000@evil.example", False),
        ("127.0.0.1:port", False),
        ("[", False),
        ("", False),
    ],
)
def test_only_its_own_names_are_answered(host: str, inside: bool) -> None:
    assert (ask({"host": host})[0]["status"] == 200) == inside


@pytest.mark.parametrize(
    ("host", "inside"),
    [("192.168.1.5:8000", True), ("box.lan:8000", True), ("evil.example:8000", False)],
)
def test_open_door_answers_to_numbers_and_its_name(host: str, inside: bool) -> None:
    """A number cannot be rebound to another machine."""
    sent = ask({"host": host, "cookie": f"detq-demo-8000={TOKEN}"}, host="box.lan", token=TOKEN)
    assert (sent[0]["status"] == 200) == inside


@pytest.mark.parametrize(
    ("origin", "inside"),
    [
        ("http://127.0.0.1:8000", True),
        ("https://127.0.0.1:8000", False),
        ("http://127.0.0.1:9000", False),
        ("http://evil.example", False),
        ("null", False),
        (None, False),
    ],
)
def test_websocket_comes_from_the_own_page(origin: str | None, inside: bool) -> None:
    headers = {"host": "127.0.0.1:8000"} | ({} if origin is None else {"origin": origin})
    sent = ask(headers, kind="websocket")
    assert (sent[0]["type"] == "websocket.accept") == inside


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "cookie", ["", "detq-demo-8000=wrong", "detq-demo-9000=a-good-token", "=;=;\x7f", "\xff\xfe"]
)
def test_nothing_without_the_token(kind: str, cookie: str) -> None:
    headers = {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000", "cookie": cookie}
    sent = ask(headers, kind=kind, token=TOKEN)
    assert sent[0].get("status", 401) == 401
    assert sent[0]["type"] in ("http.response.start", "websocket.close")


def test_token_moves_from_the_address_into_a_cookie() -> None:
    sent = ask({"host": "127.0.0.1:8000"}, token=TOKEN, query=f"token={TOKEN}")
    headers = dict(sent[0]["headers"])
    assert (sent[0]["status"], headers[b"location"]) == (303, b"/")
    cookie = headers[b"set-cookie"].decode()
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    again = ask({"host": "127.0.0.1:8000", "cookie": cookie.split(";")[0]}, token=TOKEN)
    assert again[0]["status"] == 200


@pytest.mark.parametrize("query", ["token=wrong", "token=", "token=%ff", "token=%F0%9F%92%A9"])
def test_wrong_token_in_the_address(query: str) -> None:
    assert ask({"host": "127.0.0.1:8000"}, token=TOKEN, query=query)[0]["status"] == 401


def test_page_may_load_nothing_from_elsewhere() -> None:
    policy = content_policy("127.0.0.1:8000", "http")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("//") == 1
    assert "connect-src 'self' ws://127.0.0.1:8000" in policy
    sent = ask({"host": "127.0.0.1:8000"})
    assert (b"content-security-policy", policy.encode()) in sent[0]["headers"]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("box.lan", False),
    ],
)
def test_loopback_is_recognised(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
