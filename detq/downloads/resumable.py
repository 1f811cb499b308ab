"""Fetch a file over HTTP so that a broken connection or a stopped run costs only what was missing.

The target appears by a rename of ``partial.py``'s unfinished file when every declared byte is
there, never before.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import closing
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from detq.downloads.lock import exclusive
from detq.downloads.partial import Partial
from detq.errors import DownloadError
from detq.progress import Steps

_BLOCK_BYTES = 1 << 20
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that another attempt may not meet again."""


class _TryAgainError(Exception):
    """This attempt did not complete the file; another may."""


class _UnreachableError(_TryAgainError):
    """No connection to the server came about."""


def download(
    url: str,
    target: Path,
    *,
    progress: Steps | None = None,
    attempts: int = 4,
    timeout_s: float = 30,
    pause_s: float = 1,
) -> None:
    """Fetch ``url`` to ``target``, continuing what an earlier call left; an existing target stays.

    After a broken connection, up to ``attempts`` requests in all, with ``pause_s`` more to wait
    before each. ``progress`` goes on where the interrupted part ended. Of several processes that
    want the same target, one fetches it and the others wait. Raises DownloadError.
    """
    _check_address(url)
    try:
        with exclusive(target):
            if not target.is_file():
                partial = Partial(url, target)
                _repeat(partial, progress, attempts=attempts, timeout_s=timeout_s, pause_s=pause_s)
                partial.complete()
    except OSError as error:  # errors of the network have become others
        raise not_writable(target, error) from None


def not_writable(place: Path, error: OSError) -> DownloadError:
    """The one line for a cache that cannot be written."""
    return DownloadError(
        f"{place}: cannot be written ({error.strerror or error}); free some space, or set "
        f"DETQ_CACHE to a folder that can be written"
    )


def require_space(folder: Path, byte_count: int, what: str) -> None:
    """Raise DownloadError unless ``byte_count`` more bytes fit on the disk of ``folder``."""
    free = shutil.disk_usage(folder).free
    if byte_count > free:
        raise DownloadError(
            f"{what}: needs {_megabytes(byte_count)} in {folder}, where {_megabytes(free)} are "
            f"free; free some space, or set DETQ_CACHE to a folder on another disk"
        )


def failure(url: str, reason: object) -> DownloadError:
    """The one line for a file that cannot be had from ``url``."""
    return DownloadError(
        f"{url}: cannot be downloaded ({_one_line(reason)}); check the connection, or fetch the "
        f"file on another machine and pass its path, or set DETQ_MIRROR to an address that has it"
    )


def _repeat(
    partial: Partial,
    progress: Steps | None,
    *,
    attempts: int,
    timeout_s: float,
    pause_s: float,
) -> None:
    """Attempt after attempt until the partial file is complete.

    A server that the very first attempt does not reach is given up at once: most likely there is no
    network, and nobody should wait to be told.
    """
    for attempt in range(1, attempts + 1):
        try:
            _attempt(partial, progress, timeout_s)
            return
        except _TryAgainError as error:
            offline = attempt == 1 and isinstance(error, _UnreachableError)
            if offline or attempt == attempts:
                raise failure(partial.url, error) from None
        time.sleep(pause_s * attempt)
    raise ValueError(f"attempts must be at least 1, got {attempts}")


def _attempt(partial: Partial, progress: Steps | None, timeout_s: float) -> None:
    """One request, for what is missing. Raises _TryAgainError if something still is after it."""
    start = partial.byte_count()
    with closing(_ask(partial, start, timeout_s)) as response:
        if response.status == 416 and start:
            _check_complete(partial, response.headers, start)
            return
        if response.status in _PASSING:
            raise _TryAgainError(f"HTTP status {response.status} {response.reason}")
        if response.status not in (200, 206):
            raise failure(partial.url, f"HTTP status {response.status} {response.reason}")
        _receive(partial, response, start, progress)


def _ask(partial: Partial, start: int, timeout_s: float) -> HTTPResponse:
    """Send the request. An HTTP error status comes back as a response too."""
    headers = {"User-Agent": "detq", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": partial.validator()}
    asked = request.Request(partial.url, headers=headers)  # noqa: S310 - _check_address, _opener
    try:
        return cast(HTTPResponse, _opener().open(asked, timeout=timeout_s))
    except HTTPError as error:
        return cast(HTTPResponse, error)  # has the status, reason, headers and close() of one
    except URLError as error:
        raise _UnreachableError(_one_line(error.reason)) from None
    except (OSError, HTTPException) as error:
        raise _TryAgainError(f"no answer: {_one_line(error) or type(error).__name__}") from None


def _opener() -> request.OpenerDirector:
    """``urllib``'s own without files and FTP, so that no redirect leads there either."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPRedirectHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _receive(partial: Partial, response: HTTPResponse, start: int, progress: Steps | None) -> None:
    """Write the body behind the first ``start`` bytes, or afresh if the server sends it all."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise failure(partial.url, f"sent with Content-Encoding {encoding}, not as it is")
    if response.status == 200:
        start = 0
    else:
        _check_continued(partial, response.headers, start)
    total = _total_bytes(partial, response, start)
    require_space(partial.path.parent, total - start, partial.url)
    with partial.path.open("ab" if start else "wb") as file:
        if not start:
            partial.remember(_validator(response.headers))
        done = start
        while done < total:
            block = _read(response, total - done)
            if not block:
                raise _TryAgainError(f"the connection ended after {done} of {total} bytes")
            file.write(block)
            done += len(block)
            if progress:
                progress(done, total)
        file.flush()
        os.fsync(file.fileno())  # or a crash after the rename could leave a target without bytes


def _read(response: HTTPResponse, byte_count: int) -> bytes:
    """What has arrived, at most ``byte_count``; nothing at the end of the body."""
    try:
        return response.read1(min(_BLOCK_BYTES, byte_count))
    except (OSError, HTTPException) as error:
        raise _TryAgainError(f"the connection broke: {_one_line(error)}") from None


def _check_continued(partial: Partial, headers: Message, start: int) -> None:
    """A part is only good behind the bytes that are here, and of the same version."""
    sent = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    if sent and int(sent[1]) == start and _same_version(partial, headers):
        return
    partial.discard()
    raise _TryAgainError("the server sent another part than the one asked for")


def _check_complete(partial: Partial, headers: Message, start: int) -> None:
    """HTTP status 416: nothing lies behind the bytes that are here. They are all, or stale."""
    if _whole(headers) == start and _same_version(partial, headers):
        return
    partial.discard()
    raise _TryAgainError("what an earlier run left does not fit the file on the server")


def _same_version(partial: Partial, headers: Message) -> bool:
    """A server may ignore ``If-Range``; it still says which version it sent."""
    return _validator(headers) in ("", partial.validator())


def _total_bytes(partial: Partial, response: HTTPResponse, start: int) -> int:
    """The size of the whole file as declared: without one, a cut could not be noticed."""
    whole = _whole(response.headers)
    if response.status == 206 and whole is not None:
        return whole
    length = response.headers.get("Content-Length", "")
    if not length.isdecimal():
        raise failure(partial.url, "the server does not say how long the file is")
    return start + int(length)


def _whole(headers: Message) -> int | None:
    """``bytes 5-9/10`` or ``bytes */10`` -> 10."""
    found = re.fullmatch(r"bytes (?:\*|\d+-\d+)/(\d+)", headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _validator(headers: Message) -> str:
    """What ``If-Range`` takes: a strong ETag, or else the date of the last change (RFC 9110)."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")


def _check_address(url: str) -> None:
    try:
        known = urlsplit(url).scheme in ("http", "https")
    except ValueError:
        known = False
    if not known:
        raise DownloadError(f"{url}: not an http or https address; correct it or DETQ_MIRROR")


def _megabytes(byte_count: int) -> str:
    return f"{byte_count / 1e6:,.0f} MB"


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split())
