"""The processor: how many of its cores this process may use, and of what family it is."""

from __future__ import annotations

import os
import platform


def core_count() -> int:
    """As far as the system tells: a container or ``taskset`` can leave it fewer than there are."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def is_x86() -> bool:
    """True for Intel's and AMD's, False for Arm's and others."""
    return platform.machine().lower() in {"x86_64", "amd64", "i686", "x86"}
