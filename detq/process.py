"""The process that the command line runs in: its standard streams, its signals, its threads."""

from __future__ import annotations

import _thread
import io
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

_ENDING = ("SIGTERM", "SIGHUP", "SIGBREAK")
"""What ends a process from outside, on the systems that have it."""


def open_standard_streams() -> None:
    """Streams that are closed become empty ones; output that nobody reads is dropped.

    A reader that goes away (``detq inspect … | head``) does not stop the work: files are still to
    be written. What a terminal cannot show is written as escapes.
    """
    _fill_descriptors()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        if isinstance(stream, io.TextIOWrapper):
            if stream is getattr(sys, f"__{name}__"):
                stream = _patient(stream, drops_all=name == "stderr")
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)


def restart_in_utf8() -> None:
    """Begin anew in Python's UTF-8 mode where the locale knows ASCII alone (``LC_ALL=C``).

    A name such as ``süß.jpg`` in a data set's description could not be opened otherwise. It is the
    same process, and only for the installed program: anything else may have begun to work already.
    """
    is_program = [Path(part).name for part in sys.orig_argv[1:2]] == ["detq"]
    if sys.getfilesystemencoding() == "ascii" and is_program and sys.executable:
        chosen, os.environ["PYTHONUTF8"] = os.environ.get("PYTHONUTF8"), "1"
        if chosen != "1":  # or it has been tried
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def spare_threads() -> None:
    """Keep OpenCV to the thread that calls it, unless the user says otherwise.

    A second one for a picture that takes a millisecond costs more than it brings, and takes it from
    the network.
    """
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")


def leave_deleted_folder() -> None:
    """Go to a folder where nothing can be written if the working directory has been deleted.

    Intel's MKL in torch ends the process where there is none. Relative paths still lead nowhere.
    """
    try:
        Path.cwd()
    except OSError:
        with suppress(OSError):
            os.chdir("/proc")


def flush_output() -> None:
    """Write out what standard output still holds. Raises OSError, and drops it then."""
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()
        raise


def drop_output() -> None:
    """After an error of the output itself: what it still holds must not raise again at the end."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextmanager
def home_to_ask_for() -> Iterator[None]:
    """For importing libraries that insist on a home directory, where the user has none.

    They only make paths of it; the folder is the one for temporary files.
    """
    try:
        Path.home()
    except RuntimeError:  # a container whose user is in no list of users
        os.environ["HOME"] = tempfile.gettempdir()
        try:
            yield
        finally:
            del os.environ["HOME"]
    else:
        yield


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP become a KeyboardInterrupt, as Ctrl-C does.

    So what was begun is removed, and processes that were started end. A signal that is ignored
    (nohup) stays so.
    """
    before: dict[int, Any] = {}
    for name in _ENDING:
        number = getattr(signal, name, None)
        # ValueError: not in the main thread, where nothing can be done about signals
        with suppress(ValueError, OSError):
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def watched_threads() -> Iterator[list[BaseException]]:
    """The errors that ended threads; each interrupts the main thread, as Ctrl-C would."""
    failures: list[BaseException] = []
    before = threading.excepthook

    def note(thread: threading.ExceptHookArgs) -> None:
        if thread.exc_value is not None and not isinstance(thread.exc_value, SystemExit):
            failures.append(thread.exc_value)
            _interrupt_main()

    threading.excepthook = note
    try:
        yield failures
    finally:
        threading.excepthook = before


def _interrupt_main() -> None:
    number = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and number is not None:
        signal.pthread_kill(number, signal.SIGINT)  # also wakes it from a lock
    else:
        _thread.interrupt_main()


def _fill_descriptors() -> None:
    """Let no file become descriptor 0, 1 or 2, where libraries would print into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                null = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
                os.set_inheritable(null, True)


def _patient(stream: io.TextIOWrapper, *, drops_all: bool) -> io.TextIOWrapper:
    """The same stream over :class:`_PatientFile`."""
    raw = getattr(stream.buffer, "raw", stream.buffer)  # PYTHONUNBUFFERED: there is no buffer
    if not isinstance(raw, io.FileIO):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_PatientFile(raw, drops_all=drops_all)),
        encoding=stream.encoding,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _PatientFile(io.RawIOBase):
    """Takes bytes for an open file, also when nobody reads them any more."""

    def __init__(self, file: io.FileIO, *, drops_all: bool) -> None:
        super().__init__()
        self._file = file
        self._dropped = OSError if drops_all else BrokenPipeError

    @property
    def name(self) -> Any:
        return self._file.name

    @property
    def mode(self) -> str:
        return self._file.mode

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def isatty(self) -> bool:
        return self._file.isatty()

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data) or 0
        except self._dropped:
            return len(data)


def print_error(line: str) -> None:
    """``error: …`` on standard error, wherever that leads."""
    with suppress(OSError, ValueError):
        stderr = cast(TextIO, sys.stderr)
        print(f"error: {line}", file=stderr, flush=True)
