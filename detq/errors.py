"""Every error that detq raises on purpose.

A message is one line that says what is wrong, where, and what to do next. The command line prints
it behind ``error:`` and exits with status 1; a Python user catches :class:`DetqError`.
"""

from __future__ import annotations

import reprlib

_LONGEST, _HEAD, _TAIL = 2000, 1200, 600
"""A longer message keeps its beginning and its end, which says what to do next."""

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict = 2, 4, 4, 4
_SHORT.maxset, _SHORT.maxfrozenset, _SHORT.maxstring, _SHORT.maxother = 4, 4, 60, 60


class DetqError(Exception):
    """Root of all errors that detq raises on purpose.

    Whatever a file put into the message, it is one line of printable characters and of bounded
    length (:func:`one_line`).
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class CheckpointError(DetqError):
    """A model file is missing, damaged, unsafe, or not of a family that detq reads."""


class ConfigError(DetqError):
    """A recipe or dataset description is wrong: unknown key, bad value, missing file."""


class DataError(DetqError):
    """Images or annotations are missing or contradict each other."""


class DamagedImageError(DataError):
    """One image file cannot be read or decoded; the others of its data set may be sound."""


class GraphError(DetqError):
    """A graph does not obey the detector-graph contract, or a rewrite found no place for it."""


class CalibrationError(DetqError):
    """Calibration saw no data, or saw data that no range can be computed from."""


class AccuracyError(DetqError):
    """No INT8 model within the drop in accuracy that was allowed."""


class RuntimeTimeoutError(DetqError):
    """An inference request did not finish in time."""


class ArtifactError(DetqError):
    """An exported directory cannot be written or read."""


class DownloadError(DetqError):
    """A model or data set by name cannot be fetched, or what arrived is damaged."""


class MissingLibraryError(DetqError):
    """A package that something needs is not installed, or cannot be loaded on this machine."""


def one_line(text: str) -> str:
    """One line without control characters, which could rewrite what a terminal shows.

    Unprintable characters become escapes; of more than 2,000 characters the middle is left out.
    """
    joined = " ".join(text.splitlines())
    if len(joined) > _LONGEST:
        joined = f"{joined[:_HEAD]} … {joined[-_TAIL:]}"
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in joined
    )


def shown(value: object) -> str:
    """A value out of a file, short enough for a message whatever it is.

    ``repr`` of nested values that share parts grows exponentially.
    """
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return f"a number too long to print ({type(value).__name__})"
