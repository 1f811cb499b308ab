"""What differs between tasks is told in :mod:`detq.tasks`, and nowhere asked for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import detq
import detq.demo
from detq.contract import CONTRACTS, Task
from detq.tasks import TASKS

PACKAGE, DEMO = Path(detq.__file__).parent, Path(detq.demo.__file__).parent
FILES = [
    path
    for path in (*sorted(PACKAGE.rglob("*.py")), *sorted(DEMO.glob("*.py")))
    if PACKAGE / "tasks" not in path.parents
]


def branches(source: str) -> Iterator[str]:
    """Every comparison with a task or with the name of one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            operands = (node.left, *node.comparators)
            if any(map(_is_task, operands)) and not any(map(_is_none, operands)):
                yield ast.unparse(node)
        elif isinstance(node, ast.Match) and _is_task(node.subject):
            yield ast.unparse(node.subject)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_task(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return node.value in get_args(Task)
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(map(_is_task, node.elts))
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name == "task"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(path.parents[1])))
def test_nothing_asks_which_task_a_model_is_for(path: Path) -> None:
    found = list(branches(path.read_text(encoding="utf-8")))
    if path == PACKAGE / "models/fuse.py":
        found.remove("part == 'detect'")  # what YOLOv6 calls its head
    if path == PACKAGE / "records/spec.py":
        found.remove("self.task not in CONTRACTS")  # is it one at all?
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "if graph.spec.task == 'segment': pass",
        "x = spec.task != other",
        "x = 'classify' in names",
        "x = kind in ('detect', 'track')",
        "x = task is wanted",
        "def f(spec):\n    match spec.task:\n        case 'detect': pass",
    ],
)
def test_reader_of_branches_sees_them(source: str) -> None:
    assert list(branches(source))


def test_every_task_has_a_contract_and_a_strategy() -> None:
    assert tuple(CONTRACTS) == tuple(TASKS) == get_args(Task)
