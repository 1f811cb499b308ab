"""How many of the processor's cores this process may use."""

import os


def core_count() -> int:
    """As far as the system tells: a container or ``taskset`` can leave it fewer than there are."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1
