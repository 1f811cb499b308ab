"""Bytes by name: a path, an address, or a file in a store such as ``s3://bucket/key``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import IO, Any, cast
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from detq.data.images import MOST_BYTES
from detq.errors import DamagedImageError, DataError
from detq.files import open_regular

TIMEOUT_S = 30.0
WEB = frozenset({"http", "https"})


def scheme_of(name: str) -> str:
    """``s3`` of ``s3://bucket/key``; empty for a path."""
    scheme, mark, _ = name.partition("://")
    return scheme.lower() if mark and scheme.isalnum() else ""


def open_binary(name: str) -> IO[bytes]:
    """Open a file of any place for reading, from its beginning on.

    Addresses of the web by the standard library, other stores by fsspec. Raises DamagedImageError
    if it is missing or cannot be read, DataError if the store's library is not installed.
    """
    try:
        scheme = scheme_of(name)
        if not scheme:
            return open_regular(Path(name))
        if scheme in WEB:
            return cast(IO[bytes], urlopen(name, timeout=TIMEOUT_S))  # noqa: S310 - http alone
        return cast(IO[bytes], file_system(name).open(name, "rb"))
    except (OSError, ValueError, RuntimeError) as error:
        raise DamagedImageError(
            f"{without_password(name)}: cannot be read ({_reason(error)}); check the name"
        ) from None


def read_whole(name: str) -> bytes:
    """The content of a file of any place, of at most :data:`~detq.data.images.MOST_BYTES`."""
    with open_binary(name) as file:
        try:
            content = file.read(MOST_BYTES + 1)
        except (OSError, ValueError, RuntimeError) as error:
            raise DamagedImageError(
                f"{without_password(name)}: cannot be read ({_reason(error)}); try again"
            ) from None
    if len(content) > MOST_BYTES:
        raise DataError(f"{without_password(name)}: has more than {MOST_BYTES} bytes; leave it out")
    return content


def file_system(name: str) -> Any:
    """What fsspec has for the store that a name is in. Raises DataError without its library."""
    try:
        fsspec = importlib.import_module("fsspec")
        return fsspec.core.url_to_fs(name)[0]
    except ImportError as error:
        raise DataError(f"{without_password(name)}: {error}; see docs/scale.md") from None
    except ValueError as error:
        raise DataError(f"{without_password(name)}: {error}; check the name") from None


def without_password(name: str) -> str:
    """The same without user and password, for messages and results."""
    if not scheme_of(name):
        return name
    parts = urlsplit(name)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _reason(error: BaseException) -> str:
    if isinstance(error, URLError):
        return str(error.reason if error.reason else error)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
