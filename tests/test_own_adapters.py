"""Files of a user's own kind, opened by a function that detq does not know beforehand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import detq
from detq.api import own_adapters
from detq.errors import CheckpointError, DetqError
from detq.graph.detector_graph import DetectorGraph
from detq.records import SizeHW


@pytest.fixture(autouse=True)
def none_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_adapters, "_registered", [])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "colours.mine"
    path.write_text("red green blue")
    return path


def test_registered_adapter_opens_its_files(colour_graph: DetectorGraph, file: Path) -> None:
    asked: list[tuple[Path, SizeHW | None]] = []

    @detq.register_adapter
    def open_mine(path: Path, size_hw: SizeHW | None) -> DetectorGraph | None:
        asked.append((path, size_hw))
        return colour_graph if path.suffix == ".mine" else None

    assert detq.load(file).spec == colour_graph.spec
    assert detq.load(file, imgsz=(32, 64)).spec.size_hw == (32, 64)
    assert asked == [(file, None), (file, (32, 64))]


def test_other_files_are_read_as_ever(colour_graph: DetectorGraph, file: Path) -> None:
    detq.register_adapter(lambda path, size_hw: None)
    with pytest.raises(CheckpointError, match=r"unknown kind of model file '\.mine'"):
        detq.load(file)
    with pytest.raises(CheckpointError, match=r"absent\.mine"):
        detq.load(file.with_name("absent.mine"))


def test_the_last_one_registered_is_asked_first(colour_graph: DetectorGraph, file: Path) -> None:
    def never(path: Path, size_hw: SizeHW | None) -> DetectorGraph | None:
        raise AssertionError(path)

    detq.register_adapter(never)
    detq.register_adapter(lambda path, size_hw: colour_graph)
    assert detq.load(file).spec == colour_graph.spec


def test_failing_adapter_is_one_line_that_names_it(file: Path) -> None:
    @detq.register_adapter
    def broken(path: Path, size_hw: SizeHW | None) -> DetectorGraph | None:
        raise KeyError("weights")

    with pytest.raises(CheckpointError, match=r"colours\.mine: the adapter .*broken failed \(KeyE"):
        detq.load(file)


def test_adapter_that_returns_something_else_is_an_error(file: Path) -> None:
    detq.register_adapter(lambda path, size_hw: "a graph")  # type: ignore[arg-type, return-value]
    with pytest.raises(CheckpointError, match=r"returned a str; expected what detq\.adapt returns"):
        detq.load(file)


def test_adapter_refuses_a_file_with_its_own_words(file: Path) -> None:
    @detq.register_adapter
    def strict(path: Path, size_hw: SizeHW | None) -> DetectorGraph | None:
        raise DetqError(f"{path}: of a later version; update my_package")

    with pytest.raises(DetqError, match="of a later version; update my_package"):
        detq.load(file)


PACKAGE = """
from torch import nn

import detq


class Boxes(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.predict = nn.Conv2d(3, 4 + classes, 32, 32)

    def forward(self, images):
        return self.predict(images).sigmoid().flatten(2)


def open_mine(path, size_hw):
    if path.suffix != ".mine":
        return None
    names = path.read_text().split()
    return detq.adapt(Boxes(len(names)), class_names=names, strides=[32], imgsz=size_hw or 64)
"""


def test_installed_package_serves_the_command_line(file: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    about = site / "my_package-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "my_package.py").write_text(PACKAGE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[detq.adapters]\nmine = my_package:open_mine\n")
    command = [sys.executable, "-c", "from detq.cli import main; main()", "inspect", str(file)]
    run = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "predict" in run.stdout
    (site / "my_package.py").write_text("import a_module_that_is_not_there")
    broken = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert broken.returncode == 1
    assert "my_package:open_mine of an installed package cannot be imported" in broken.stderr
    assert broken.stderr.splitlines()[-1].startswith("error: ")
