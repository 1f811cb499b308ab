"""Imports go one way (ARCHITECTURE.md), and libraries stay in their rooms."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import detq
import detq.demo

PACKAGE = Path(detq.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
} | {
    f"detq.demo.{path.stem}".removesuffix(".__init__"): path
    for path in sorted(Path(detq.demo.__file__).parent.glob("*.py"))
}

# Room -> row. A module imports from its own room and from rows of smaller numbers.
ROWS = {
    "cores": 1,
    "exchange": 3,
    "errors": 0,
    "extras": 1,
    "files": 1,
    "opencv": 1,
    "crash_report": 1,
    "process": 1,
    "progress": 1,
    "contract": 1,
    "records": 2,
    "yaml_file": 2,
    "config": 3,
    "models": 4,
    "data": 4,
    "downloads": 4,
    "numerics": 4,  # no OpenVINO
    "graph": 5,
    "adapters": 5,
    "quant": 6,
    "runtime": 6,
    "evaluation": 7,
    "benchmark": 7,
    "tuning": 8,
    "onnx_export": 7,
    "report": 7,
    "tasks": 8,
    "artifact": 9,
    "serving": 7,
    "scale": 9,
    "api": 10,
    "quickstart": 11,
    "programs": 11,
    "console": 12,
    "detq": 13,  # the package itself re-exports what api offers
    "programs.worker": 14,  # users of the package, in processes of their own
    "programs.trial": 14,
    "demo": 14,  # another one
    "cli": 15,
    "__main__": 16,  # the command line under other names
    "demo.webcam": 16,
}
TORCH_ROOMS = {"models", "adapters"}
NEVER = {"torchvision", "yolov6"}
PEERS = {"onnxruntime", "ultralytics"}  # where a user has them
WORKER, TRIAL = "detq.programs.worker", "detq.programs.trial"
USERS_OF_PEERS = {WORKER, "detq.adapters.ultralytics_package"}
SCRIPT = "detq.demo.webcam"


def room(module: str) -> str:
    """``detq.quant.quantizer`` -> ``quant``; ``detq`` -> ``detq``."""
    steps = module.split(".")[1:]
    if not steps:
        return "detq"
    if module in (WORKER, TRIAL, SCRIPT):
        return module.removeprefix("detq.")
    return steps[0]


def imports(source: str, package: str = "detq", *, at_run_time: bool = False) -> Iterator[str]:
    """Every module that the source imports anywhere; ``at_run_time`` without what only type
    checkers see.
    """
    yield from _imports(ast.parse(source), package, at_run_time)


def _imports(node: ast.AST, package: str, at_run_time: bool) -> Iterator[str]:
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        name = resolve_name("." * node.level + (node.module or ""), package)
        submodules = [f"{name}.{alias.name}" for alias in node.names]
        found = [submodule for submodule in submodules if submodule in MODULES]
        yield from found
        if len(found) < len(submodules):
            yield name
    elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children = node.orelse if at_run_time else children
    for child in children:
        yield from _imports(child, package, at_run_time)


def imported_by(module: str, *, at_run_time: bool = False) -> set[str]:
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return set(imports(path.read_text(encoding="utf-8"), package, at_run_time=at_run_time))


def circle(graph: Mapping[str, Collection[str]]) -> list[str]:
    """Modules each of which imports the one before it, the first one twice; none if all is well."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def forbidden(module: str, imported: str) -> bool:
    """True for an import upward or sideways."""
    own, other = room(module), room(imported)
    return own != other and ROWS[own] <= ROWS[other]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    own = {name for name in imported_by(module) if name.split(".")[0] == "detq"}
    assert own <= set(MODULES)
    wrong = {name: (room(name), ROWS[room(name)]) for name in own if forbidden(module, name)}
    assert not wrong, f"{module} in row {ROWS[room(module)]} imports {wrong}"


@pytest.mark.parametrize("name", ROWS)
def test_no_module_of_a_room_imports_itself_by_way_of_others(name: str) -> None:
    own = {module for module in MODULES if room(module) == name}
    assert not circle({module: imported_by(module) & own - {module} for module in own})


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        ({"a": {"b", "c"}, "b": {"c"}}, set()),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, {"b", "c"}),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}}, {"a", "b", "c"}),
    ],
    ids=["none", "two", "three"],
)
def test_circles_are_found(graph: dict[str, set[str]], found: set[str]) -> None:
    assert set(circle(graph)) == found


def test_every_room_has_a_row() -> None:
    assert {room(module) for module in MODULES} == set(ROWS)


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_in_their_rooms(module: str) -> None:
    libraries = {name.split(".")[0] for name in imported_by(module, at_run_time=True)}
    assert not libraries & NEVER
    assert module in USERS_OF_PEERS or not libraries & PEERS
    if room(module) not in TORCH_ROOMS:
        assert "torch" not in libraries
    if module != "detq.opencv" and room(module) != "demo":  # the demo comes after detq
        assert "cv2" not in libraries
    if room(module) == "numerics":
        assert not libraries & {"openvino", "nncf"}


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) == "demo"])
def test_demo_uses_what_every_user_may(module: str) -> None:
    own = {name for name in imported_by(module) if name.split(".")[0] == "detq"}
    assert own <= {"detq", *(name for name in MODULES if room(name) == "demo")}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import detq.api", {"detq.api"}),
        ("from detq import api, console", {"detq.api", "detq.console"}),
        ("from detq import DetqError", {"detq"}),
        ("from detq.numerics import cfws", {"detq.numerics.cfws"}),
        ("from .network import Stage", {"detq.quant.network"}),
        ("from .. import api", {"detq.api"}),
        ("def f():\n    import torch", {"torch"}),
        ("class A:\n    def f(self):\n        from detq import api", {"detq.api"}),
        ("if TYPE_CHECKING:\n    import torch", {"torch"}),
        ("if typing.TYPE_CHECKING:\n    import torch\nelse:\n    import numpy", {"torch", "numpy"}),
        ("try:\n    import torch\nexcept ImportError:\n    pass", {"torch"}),
    ],
)
def test_reader_of_imports_sees_them_all(source: str, found: set[str]) -> None:
    assert set(imports(source, "detq.quant")) == found


def test_what_only_type_checkers_see_is_told_apart() -> None:
    source = "import numpy\nif TYPE_CHECKING:\n    import torch\nelse:\n    import onnx"
    assert set(imports(source, at_run_time=True)) == {"numpy", "onnx"}


@pytest.mark.parametrize(
    ("module", "imported", "wrong"),
    [
        ("detq.graph.convert", "detq.graph.surgery", False),
        ("detq.graph.convert", "detq.quant.quantizer", True),
        ("detq.graph.convert", "detq.numerics.cfws", False),
        ("detq.graph.convert", "detq.adapters", True),
        ("detq.numerics.ranges", "detq.numerics.histogram", False),
        ("detq.numerics.ranges", "detq.quant.quantizer", True),
        ("detq.quant.quantizer", "detq.numerics.ranges", False),
        ("detq.config", "detq.records", False),
        ("detq.records", "detq.config", True),
        ("detq.benchmark", "detq.evaluation", True),
        ("detq.errors", "detq", True),
        ("detq.cli", "detq.console", False),
        ("detq.cli", "detq.demo.launch", False),
        ("detq.api", "detq.demo.launch", True),
        ("detq.demo.launch", "detq", False),
        ("detq.demo.launch", "detq.cli", True),
    ],
)
def test_rows_are_read_as_meant(module: str, imported: str, wrong: bool) -> None:
    assert forbidden(module, imported) == wrong
