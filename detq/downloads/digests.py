"""That a file is what it was: SHA-256 of downloads, and of the models that detq brings along.

The publishers of most models state no digest. For such a file the first download's is kept beside
it, so that damage in the cache is noticed later; what arrived is then trusted as it came.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from detq.errors import CheckpointError, DownloadError
from detq.files import atomic_write, read_text, sha256_of

SUMS = "SHA256SUMS"
"""Beside the models that detq brings along: a line ``digest  name`` for each."""
_MOST_BYTES = 1 << 16
_LINE = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<name>[^\n]+)")


def record_of(path: Path) -> Path:
    """Where the digest of a download is kept; ``sha256sum --check`` reads it."""
    return path.with_name(f"{path.name}.sha256")


def is_intact(path: Path, known: str | None) -> bool:
    """True for a file that has the digest ``known``, or else the one kept beside it.

    A file beside which nothing is kept is taken as it is, and its digest kept from now on.
    """
    if not path.is_file():
        return False
    found = sha256_of(path)
    if known is not None:
        return found == known
    record = record_of(path)
    if record.exists():
        return _read(record).get(path.name) == found
    with suppress(OSError):  # somebody else's folder, which this user only reads
        atomic_write(record, f"{found}  {path.name}\n".encode())
    return True


def check_arrived(path: Path, known: str | None, url: str) -> None:
    """Delete a download that has not the digest ``known``, and raise DownloadError."""
    if known is not None and sha256_of(path) != known:
        path.unlink()
        raise DownloadError(
            f"{url}: sent another file than the one that its publishers describe; it was deleted, "
            f"try again, or another network"
        )


def check_embedded(path: Path) -> None:
    """Raise CheckpointError for a model of detq's own that is not as it was installed."""
    sums = path.with_name(SUMS)
    try:
        intact = _read(sums).get(path.name) == sha256_of(path)
    except OSError:
        intact = False
    if not intact:
        raise CheckpointError(
            f"{path}: is damaged, it differs from its digest in {SUMS}; install detq again"
        )


def _read(sums: Path) -> dict[str, str]:
    """Name -> digest. What is no such line counts as missing."""
    try:
        lines = read_text(sums, most_bytes=_MOST_BYTES).splitlines()
    except OSError:
        return {}
    found = (_LINE.fullmatch(line) for line in lines)
    return {match["name"]: match["digest"] for match in found if match}
