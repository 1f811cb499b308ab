"""What a set of images is, by content: its fingerprint, and what it shares with another set."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detq.errors import DataError


def fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 (hex) of a set of files; the same whatever their names, folders and order.

    Raises DataError for a file that cannot be read.
    """
    return hashlib.sha256("".join(sorted(_digests(paths))).encode()).hexdigest()


def content_overlap(first: Sequence[Path], second: Sequence[Path]) -> tuple[tuple[Path, Path], ...]:
    """Pairs of files with the same content, one of each set: say, a calibration image also judged.

    Only files whose size occurs in both sets are read. Raises DataError for an unreadable file.
    """
    first_sizes, second_sizes = _sizes(first), _sizes(second)
    shared_sizes = set(first_sizes.values()) & set(second_sizes.values())
    left = [path for path in first if first_sizes[path] in shared_sizes]
    right = [path for path in second if second_sizes[path] in shared_sizes]
    by_digest: dict[str, list[Path]] = defaultdict(list)
    for path, digest in zip(right, _digests(right), strict=True):
        by_digest[digest].append(path)
    return tuple(
        (path, twin)
        for path, digest in zip(left, _digests(left), strict=True)
        for twin in by_digest.get(digest, ())
    )


def _sizes(paths: Sequence[Path]) -> dict[Path, int]:
    try:
        return {path: path.stat().st_size for path in paths}
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from None


def _digests(paths: Sequence[Path]) -> list[str]:
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        return list(pool.map(_digest, paths))


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
