"""The public surface: what a reader of the package sees, a running program gets, and mypy knows."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import detq
from detq import api
from detq.errors import DetqError

ROOT = Path(__file__).parents[1]
SCRIPT = """
from pathlib import Path

import detq

result = detq.quantize("yolov6s.pt", data="coco.yaml", calibration_images=100)
result.save("yolov6s_int8_openvino_model")
reveal_type(detq.evaluate("yolov6s_int8_openvino_model", data="coco.yaml").map)
reveal_type(detq.compare("yolov6s.pt", ["minmax"], data="coco.yaml", max_drop=detq.MaxDrop(0.5)))
reveal_type(detq.classifier)
reveal_type(detq.classify("resnet.pt", "photos")[0].classes[0].label)
reveal_type(detq.export)
for frame in detq.detect_stream(detq.detector("yolov6s.pt"), detq.read_frames(Path("video.mp4"))):
    reveal_type(frame.detections.scores)
detq.quantise("yolov6s.pt")
detq.evaluate("yolov6s.pt", date="coco.yaml")
"""
REVEALED = [
    "float | None",
    "detq.api.comparison.Comparison",
    "def (model: str | pathlib.Path | detq.graph.detector_graph.DetectorGraph, *, "
    "imgsz: int | tuple[int, int] | None =, "
    "options: detq.runtime.options.RuntimeOptions | None =) -> detq.runtime.classifier.Classifier",
    "str",
    "def (model: str | pathlib.Path | detq.graph.detector_graph.DetectorGraph, "
    "output: str | pathlib.Path | None =, *, format: ",
    "numpy.ndarray[tuple[Any, ...], numpy.dtype[numpy.floating[numpy._typing._nbit_base._32Bit]]]",
]


def namespace(package: ModuleType) -> set[str]:
    """The names that the source of a package binds, for type checkers alone or not."""
    found: set[str] = set()
    pending = list(ast.parse(inspect.getsource(package)).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If):
            pending += [*node.body, *node.orelse]
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            found |= {alias.asname or alias.name for alias in node.names}
    return {name for name in found if not name.startswith("_")} - {"TYPE_CHECKING"}


@pytest.mark.parametrize("package", [detq, api], ids=["detq", "detq.api"])
def test_all_is_the_namespace(package: ModuleType) -> None:
    names = package.__all__
    assert set(names) == namespace(package)
    assert len(names) == len(set(names))
    for name in names:
        assert getattr(package, name) is not None


def test_package_offers_what_the_api_has() -> None:
    assert sorted(detq.__all__) == list(detq.__all__)
    for name in set(detq.__all__) - {"DetqError"}:
        assert getattr(detq, name) is getattr(api, name)
    assert detq.DetqError is DetqError
    assert set(detq.__all__) <= set(dir(detq))


def test_star_import_brings_all_and_nothing_else() -> None:
    offered: dict[str, object] = {}
    exec("from detq import *", offered)
    del offered["__builtins__"]
    assert set(offered) == set(detq.__all__)


@pytest.mark.parametrize("package", [detq, api], ids=["detq", "detq.api"])
def test_unknown_name_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"'{package.__name__}' has no attribute 'quantise'"):
        _ = package.quantise


def test_types_in_public_signatures_are_public() -> None:
    """So that whoever calls a function can name what it takes and gives."""
    for name in detq.__all__:
        value = getattr(detq, name)
        if inspect.isfunction(value):
            written = [value.__annotations__.get("return", "")]
            written += [str(note) for note in value.__annotations__.values()]
            named = {
                node.id
                for note in written
                for node in ast.walk(ast.parse(str(note), mode="eval"))
                if isinstance(node, ast.Name) and hasattr(api, node.id)
            }
            assert named <= set(detq.__all__), name


def test_mypy_sees_the_signatures_in_a_users_script(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--follow-imports", "silent"),
            *("--config-file", ROOT / "pyproject.toml", tmp_path / "script.py"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.partition("script.py:")[2] for line in done.stdout.splitlines()]
    revealed = [line.split('"')[1] for line in lines if "Revealed type is" in line]
    assert len(revealed) == len(REVEALED)
    for found, expected in zip(revealed, REVEALED, strict=True):
        assert found.startswith(expected)
    errors = [line for line in lines if ": error: " in line]
    assert len(errors) == 2
    assert 'Module has no attribute "quantise"' in errors[0]
    assert 'Unexpected keyword argument "date" for "evaluate"' in errors[1]
