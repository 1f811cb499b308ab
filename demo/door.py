"""Who may come in: the right host, the right origin, and with a token if the door is open wide.

A page on another site can make a browser connect to this server, and with a name that resolves to
127.0.0.1 even read from it (DNS rebinding). So the host that a request names must be this server's,
and a WebSocket must come from its own page.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .limits import SEND_S

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

QUERY_KEY = "token"
_FIXED_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def is_loopback(host: str) -> bool:
    """True for an address or name that only this machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def content_policy(host: str, scheme: str) -> str:
    """Content-Security-Policy of every answer: nothing from elsewhere, no inline script."""
    socket_scheme = "wss" if scheme in ("https", "wss") else "ws"
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        f"media-src 'self' blob:; connect-src 'self' {socket_scheme}://{host}; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )


class Guard:
    """An ASGI application around another: lets through who may come in, adds the headers.

    ``token`` is None on loopback. It comes once in the address, and then in a cookie.
    """

    def __init__(self, app: App, *, host: str, port: int, token: str | None) -> None:
        self._app = app
        self._port = port
        self._token = token
        self._cookie = f"detq-demo-{port}"  # browsers share cookies between the ports of a host
        names = {"localhost", host.lower()}
        if not is_loopback(host):
            names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._names = names
        self._only_loopback = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        refusal = self._refusal(scope, headers, host)
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
            return
        given = self._token_in_address(scope)
        if given is not None and scope["type"] == "http":
            await self._welcome(scope, send, given)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                extra = {
                    **_FIXED_HEADERS,
                    "content-security-policy": content_policy(host, scope["scheme"]),
                }
                pairs = [(key.encode(), value.encode()) for key, value in extra.items()]
                message["headers"] = [*message.get("headers", []), *pairs]
            # Who does not read holds nothing open: a TimeoutError is an OSError, a lost client.
            await (asyncio.wait_for(send(message), SEND_S) if is_http else send(message))

        is_http = scope["type"] == "http"
        await self._app(scope, receive, send_with_headers)

    def _refusal(
        self, scope: Scope, headers: dict[bytes, str], host: str
    ) -> tuple[int, str] | None:
        """Status and reason for whom to send away."""
        if not self._is_own(host, scope["scheme"]):
            return 421, "This server does not answer to that name."
        if scope["type"] == "websocket":
            origin = urlsplit(headers.get(b"origin", ""))
            secure = scope["scheme"] == "wss"
            if origin.netloc != host or origin.scheme != ("https" if secure else "http"):
                return 403, "Only this server's own page may connect."
        if self._token is not None and not self._has_token(scope, headers):
            return 401, "Open the address with the token that the server printed."
        return None

    def _is_own(self, host: str, scheme: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port
        except ValueError:
            return False
        if (port or (443 if scheme in ("https", "wss") else 80)) != self._port:
            return False
        if "@" in host:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)  # a number cannot be rebound
        except ValueError:
            return False
        return address.is_loopback or not self._only_loopback

    def _has_token(self, scope: Scope, headers: dict[bytes, str]) -> bool:
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get(b"cookie", ""))
        except CookieError:
            return False
        cookie = cookies.get(self._cookie)
        given = self._token_in_address(scope) or (cookie.value if cookie else "")
        return hmac.compare_digest(given.encode(), (self._token or "").encode())

    def _token_in_address(self, scope: Scope) -> str | None:
        if self._token is None:
            return None
        given = parse_qs(str(scope["query_string"], "latin-1")).get(QUERY_KEY)
        return given[0] if given else None

    async def _welcome(self, scope: Scope, send: Send, token: str) -> None:
        """Move the token from the address, which is seen and kept, into a cookie."""
        secure = "; Secure" if scope["scheme"] == "https" else ""
        cookie = f"{self._cookie}={token}; HttpOnly; SameSite=Strict; Path=/{secure}"
        headers = [
            (b"location", b"/"),
            (b"set-cookie", cookie.encode()),
            (b"cache-control", b"no-store"),
            (b"referrer-policy", b"no-referrer"),
        ]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
