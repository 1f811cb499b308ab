"""How a long job tells whoever waits for it how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, how much of it is done and how much there is, 0 if nobody knows:
images, or bytes of a download.
"""
Steps = Callable[[int, int], None]
"""The same within one stage: ``partial(progress, "reading images")``."""


def silent(*_: object) -> None:
    """A :data:`Progress`, or :data:`Steps`, that tells nobody."""


def labelled(progress: Progress, label: str) -> Progress:
    """The same with ``label`` before every stage, for one of several jobs; as it is without one."""
    if not label:
        return progress
    return lambda stage, done, total: progress(f"{label}: {stage}", done, total)
