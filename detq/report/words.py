"""What a report says of the task that a model is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Metric = tuple[str, str]
"""Heading, and the key in :attr:`detq.records.EvalResult.scores`."""


@dataclass(frozen=True)
class Words:
    """Headings and sentences. ``metrics`` are what is measured, the one that counts first;
    ``differences`` introduces the pictures on which the models differ, ``alike`` is what is the
    same in all others.
    """

    metrics: Sequence[Metric]
    differences: str
    alike: str
