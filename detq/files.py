"""Reading files that somebody else wrote: of a bounded size, and files at all.

A FIFO would keep its reader waiting for ever, a device may never end. Both are refused with the
OSError that callers handle anyway; its ``strerror`` says what is the matter.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

MAX_TEXT_BYTES = 64 << 20
"""Of label files and lists of images."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks of Windows' editors and of PowerShell, and what follows them."""


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading. Raises OSError if it is missing, or no regular file."""
    # Without O_NONBLOCK, opening a FIFO waits for somebody to write into it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            if stat.S_ISDIR(mode):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, *, most_bytes: int) -> bytes:
    """The content of a regular file. Raises OSError, also for one that is larger."""
    with open_regular(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it has more than {most_bytes} bytes", str(path))
    return content


def read_text(path: Path, *, most_bytes: int = MAX_TEXT_BYTES) -> str:
    """The text of a regular file in UTF-8, or in UTF-16 if a byte order mark says so.

    The mark is left out. Raises OSError as :func:`read_bytes` does, and for another encoding.
    """
    content = read_bytes(path, most_bytes=most_bytes)
    encoding = "utf-8"
    for mark, marked in _MARKS:
        if content.startswith(mark):
            content, encoding = content[len(mark) :], marked
            break
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise OSError(
            errno.EILSEQ, f"it is no UTF-8 text: {error.reason} at byte {error.start}", str(path)
        ) from None
