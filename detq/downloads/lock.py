"""One process at a time: an advisory lock on a file beside what is being made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Hold ``<target>.lock`` during the block; a second process waits here until it is released.

    The operating system releases the lock of a process that dies. Without effect on Windows and on
    file systems that know no locks. Raises OSError if the folder cannot be made or written.
    """
    path = target.with_name(f"{target.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    descriptor = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path) -> int:
    """An open descriptor of the file that is at ``path`` now, locked.

    Whoever held the lock before has removed the file: a lock on what is no longer at ``path`` keeps
    nobody out, so it is taken again.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _wait(descriptor)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _wait(descriptor: int) -> None:
    with suppress(OSError):  # some network file systems: go on without, as on Windows
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
