"""Reading files that somebody else wrote, and writing files and folders whole or not at all.

Reading: of a bounded size, and files at all. A FIFO would keep its reader waiting for ever, a
device may never end. Both are refused with the OSError that callers handle anyway; its
``strerror`` says what is the matter.

Writing: everything is made in a scratch folder beside its place and moved there when it is
complete. A run that is stopped leaves the old file or the new one; what a killed run left of its
scratch folder is removed by the next run that writes there.
"""

from __future__ import annotations

import codecs
import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MAX_TEXT_BYTES = 64 << 20
"""Of label files and lists of images."""
_PIECE_BYTES = 1 << 20
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""Byte order marks of PowerShell; Windows' editors put one before UTF-8, too."""
_SCRATCH = re.compile(r"\.detq-[0-9a-f]{12}\.part")
"""Names that nobody else gives: such a folder may be removed."""


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
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, most_bytes) + 1)  # asked for more, it would take the memory
        while len(content) <= most_bytes and (more := file.read(_PIECE_BYTES)):
            content += more  # it grows, or it is one of those that say 0
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it has more than {most_bytes} bytes", str(path))
    return content


def read_text(path: Path, *, most_bytes: int = MAX_TEXT_BYTES) -> str:
    """The text of a regular file in UTF-8, or in UTF-16 if a byte order mark says so.

    The mark is left out. Raises OSError as :func:`read_bytes` does, and for another encoding.
    """
    content = read_bytes(path, most_bytes=most_bytes)
    try:
        return content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        raise OSError(
            errno.EILSEQ, f"it is no UTF-8 text: {error.reason} at byte {error.start}", str(path)
        ) from None


def encoding_of(start: bytes) -> str:
    """Of a text that begins with some bytes; reading it so leaves the byte order mark out."""
    return "utf-16" if start.startswith(_UTF16_MARKS) else "utf-8-sig"


def in_place_of(start: bytes) -> str | None:
    """What lies in a model file's place, and what to do, if the first bytes say so; else None."""
    head = start.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS in place of the file; run `git lfs pull`"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page in place of the file; download the file itself"
    return None


def text_stem(path: Path) -> str:
    """The file's name without its ending, with ``_`` for bytes that are no text.

    Python reads such bytes as lone surrogates, which no library and no file in UTF-8 takes.
    """
    return "".join("_" if "\ud800" <= letter <= "\udfff" else letter for letter in path.stem)


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a regular file's content. Raises OSError as :func:`open_regular` does."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def atomic_write(target: Path, content: bytes) -> None:
    """Put a file of that content at ``target``, replacing a file or a link, in one step.

    Folders above it are made, an existing file's permissions are kept. Raises OSError; the old
    file, if there was one, is then as it was.
    """
    with staged(target) as path:
        path.write_bytes(content)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A path to make a file or a folder at, which takes ``target``'s place if the block succeeds.

    It has the target's name, and nothing is there yet. Raises OSError.
    """
    with scratch_folder(target.parent) as folder:
        path = folder / target.name
        yield path
        if path.is_dir():
            _move_folder(path, target)
        else:
            with path.open("rb+") as file:
                os.fsync(file.fileno())  # or a crash after the rename could leave it without bytes
            if target.is_file():
                shutil.copymode(target, path)
            path.replace(target)


@contextmanager
def result_file(target: Path) -> Iterator[Path]:
    """A path to write a result at, which takes ``target``'s place if the block succeeds.

    What is no regular file (``/dev/stdout``, a pipe) takes the bytes as they come, and so does a
    file in a folder that nothing else can be written to. A link stays one. Raises OSError.
    """
    in_place = target.exists() and not (target.is_file() and os.access(target.parent, os.W_OK))
    if in_place or target.is_relative_to("/dev"):
        yield target
    else:
        with staged(target.resolve()) as path:
            yield path


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, which is made if need be; removed at the end with all in it.

    Scratch folders there whose process has died are removed as well. Raises OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    folder, lock = _claimed(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def clear_place(path: Path) -> None:
    """Remove what is at ``path`` unless it is a regular file: a folder, a FIFO, a dead link.

    For places of a cache, where nothing else belongs. Raises OSError.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or (path.exists() and not path.is_file()):
        path.unlink()


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder for this process; False if another one has it.

    The operating system lets go of it when the process dies. Raises OSError where there are no
    such locks: on Windows, on some network file systems.
    """
    if fcntl is None:
        raise OSError(errno.ENOSYS, "no locks on this system")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _claimed(parent: Path) -> tuple[Path, int | None]:
    """A new folder that nobody sweeps away while the descriptor, if any, is open."""
    while True:
        folder = parent / f".detq-{secrets.token_hex(6)}.part"
        folder.mkdir()
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # swept already
            continue
        except OSError:  # Windows opens no folders
            return folder, None
        try:
            owned = try_lock(lock) and folder.exists()
        except OSError:
            owned = True  # nor can anybody else lock it, and remove it
        if owned:
            return folder, lock
        os.close(lock)


def _sweep(parent: Path) -> None:
    """Remove scratch folders that no living process has locked."""
    for folder in parent.glob(".detq-*.part"):
        if not _SCRATCH.fullmatch(folder.name) or folder.is_symlink():
            continue
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
            try:
                if try_lock(lock):
                    shutil.rmtree(folder)
            finally:
                os.close(lock)


def _move_folder(staged_folder: Path, target: Path) -> None:
    """Afterwards ``target`` is the staged one; an old one lies where that was, or beside it."""
    if not target.exists():
        staged_folder.rename(target)
    elif not _exchange(staged_folder, target):
        old = staged_folder.parent / "old" / target.name
        old.parent.mkdir()
        target.rename(old)
        try:
            staged_folder.rename(target)
        except BaseException:
            old.rename(target)
            raise


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step of the file system; False where it has no such step."""
    if os.name != "posix":
        return False
    system, names = ctypes.CDLL(None), (os.fsencode(first), os.fsencode(second))
    swap, at_cwd = 2, -100  # the same number on Linux and on macOS
    if (renameat2 := getattr(system, "renameat2", None)) is not None:
        return bool(renameat2(at_cwd, names[0], at_cwd, names[1], swap) == 0)
    if (renamex_np := getattr(system, "renamex_np", None)) is not None:
        return bool(renamex_np(*names, swap) == 0)
    return False
