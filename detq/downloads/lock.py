"""One process at a time: an advisory lock on a file beside what is being made."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

_UNKNOWN = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
"""What some network file systems answer, which know no locks."""


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Hold ``<target>.lock`` during the block; a second process waits here until it is released.

    The operating system releases the lock of a process that dies. Without effect on file systems
    that know no locks. Raises OSError if the folder cannot be made or written.
    """
    path = target.with_name(f"{target.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no file that is open
            path.unlink(missing_ok=True)  # whoever waits for it notices, and takes a new one
        lock.release()
