"""What networks are for, and all that differs between one task and another.

A third task is a module beside the two, an entry in :data:`TASKS`, and one in
:data:`detq.contract.CONTRACTS`, which says what its graphs give.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detq.contract import Task
from detq.records import ModelSpec
from detq.tasks import classification, detection
from detq.tasks.strategy import Finder, Found, Strategy

__all__ = ["TASKS", "Finder", "Found", "Strategy", "strategy_of"]

TASKS: Mapping[Task, Strategy[Any, Any]] = {
    "detect": detection,
    "classify": classification,
}


def strategy_of(spec: ModelSpec) -> Strategy[Any, Any]:
    """How a model is run, judged and spoken of."""
    return TASKS[spec.task]
