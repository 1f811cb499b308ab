"""Bytes by name: a path, an address, or a file in a store such as ``s3://bucket/key``."""

from __future__ import annotations

import importlib
import re
from base64 import b64encode
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast
from urllib.error import HTTPError, URLError
from urllib.parse import unquote
from urllib.request import Request, urlopen

from detq.data.images import MOST_BYTES
from detq.errors import DamagedImageError, DataError
from detq.extras import require
from detq.files import open_regular

TIMEOUT_S = 30.0
WEB = frozenset({"http", "https"})
_LOGIN = re.compile(r"(\w+://)([^/?#]*)@")
_ERRORS = (OSError, ValueError, RuntimeError, EOFError, HTTPException)


def scheme_of(name: str) -> str:
    """``s3`` of ``s3://bucket/key``; empty for a path."""
    scheme, mark, _ = name.partition("://")
    return scheme.lower() if mark and scheme.isalnum() else ""


def open_binary(name: str) -> IO[bytes]:
    """Open a file of any place for reading, from its beginning on.

    Addresses of the web by the standard library, other stores by fsspec. Raises DamagedImageError
    if it is missing or cannot be read, DataError or MissingLibraryError if the store's library is
    not installed.
    """
    try:
        scheme = scheme_of(name)
        if not scheme:
            return open_regular(Path(name))
        if scheme in WEB:
            return cast(IO[bytes], urlopen(_request(name), timeout=TIMEOUT_S))  # noqa: S310
        return cast(IO[bytes], file_system(name).open(name, "rb"))
    except _ERRORS as error:
        if isinstance(error, HTTPError):
            error.close()
        raise DamagedImageError(
            f"{without_password(name)}: cannot be read ({reason_of(error, name)}); check the name"
        ) from None


def open_seekable(name: str) -> IO[bytes]:
    """As :func:`open_binary`, to be read in any order: what is on the web is fetched whole."""
    return BytesIO(read_whole(name)) if scheme_of(name) in WEB else open_binary(name)


def read_whole(name: str) -> bytes:
    """The content of a file of any place, of at most :data:`~detq.data.images.MOST_BYTES`."""
    with open_binary(name) as file:
        try:
            content = file.read(MOST_BYTES + 1)
        except _ERRORS as error:
            raise DamagedImageError(
                f"{without_password(name)}: cannot be read ({reason_of(error, name)}); try again"
            ) from None
        missing = getattr(file, "length", None)  # http.client reads on as if it were all
    if len(content) > MOST_BYTES:
        raise DataError(f"{without_password(name)}: has more than {MOST_BYTES} bytes; leave it out")
    if missing:
        raise DamagedImageError(
            f"{without_password(name)}: cannot be read ({missing} bytes are missing); try again"
        )
    return content


def file_system(name: str) -> Any:
    """What fsspec has for the store that a name is in. Raises DataError without that store's own
    library, MissingLibraryError without fsspec.
    """
    require(without_password(name), "fsspec")
    try:
        fsspec = importlib.import_module("fsspec")
        return fsspec.core.url_to_fs(name)[0]
    except ImportError as error:
        raise DataError(f"{without_password(name)}: {error}; see docs/scale.md") from None
    except _ERRORS as error:
        raise DataError(
            f"{without_password(name)}: {reason_of(error, name)}; check the name"
        ) from None


def names_in_store(name: str, *, is_pattern: bool) -> list[str]:
    """Of the files below a folder of a store, or of those that match, sorted. Raises DataError."""
    store = file_system(name)
    try:
        found = store.glob(name) if is_pattern else store.find(name)
    except _ERRORS as error:
        raise DataError(
            f"{without_password(name)}: cannot be listed ({reason_of(error, name)}); check the name"
        ) from None
    return [store.unstrip_protocol(path) for path in sorted(found)]


def without_password(name: str) -> str:
    """The same without user and password, for messages and results."""
    if not scheme_of(name):
        return name
    return _LOGIN.sub(r"\1", name, count=1) if _LOGIN.match(name) else name


def reason_of(error: BaseException, name: str) -> str:
    """What an error says of ``name``, without its user and password."""
    if isinstance(error, URLError) and error.reason:
        said = str(error.reason)
    else:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    login = _LOGIN.match(name)
    return said.replace(f"{login[2]}@", "") if login else said


def _request(name: str) -> Request:
    """User and password as a header; in the address, urllib takes them for the host."""
    request = Request(without_password(name))  # noqa: S310 - http alone
    if login := _LOGIN.match(name):
        secret = b64encode(unquote(login[2]).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    return request
