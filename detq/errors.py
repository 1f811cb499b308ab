"""Every error that detq raises on purpose.

A message is one line that says what is wrong, where, and what to do next. The command line prints
it behind ``error:`` and exits with status 1; a Python user catches :class:`DetqError`.
"""

from __future__ import annotations


class DetqError(Exception):
    """Root of all errors that detq raises on purpose."""


class CheckpointError(DetqError):
    """A model file is missing, damaged, unsafe, or not of a family that detq reads."""


class ConfigError(DetqError):
    """A recipe or dataset description is wrong: unknown key, bad value, missing file."""


class DataError(DetqError):
    """Images or annotations are missing or contradict each other."""


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
