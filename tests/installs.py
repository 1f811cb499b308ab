"""A small install made of what is there: a virtual environment with some packages linked into it.

No package index is asked and nothing is copied: what a list of requirements brings is found in the
metadata of the running environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from command_line import COMMAND, Outcome
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_SOURCES = ("detq", "demo", "configs", "weights", "pyproject.toml", "README.md", "LICENSE")


@dataclass(frozen=True)
class Install:
    """A virtual environment, by its interpreter."""

    python: Path

    def detq(self, *arguments: str | Path, folder: Path) -> Outcome:
        """The command line in ``folder``."""
        return self.run(*COMMAND[1:], *arguments, folder=folder)

    def run(self, *arguments: str | Path, folder: Path) -> Outcome:
        """The interpreter in ``folder``."""
        done = subprocess.run(
            [self.python, *arguments],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


def closure(requirements: Iterable[str]) -> set[str]:
    """The names of all packages that come with these, themselves included."""
    found: set[str] = set()
    pending = [Requirement(text) for text in requirements]
    while pending:
        wanted = pending.pop()
        name = canonicalize_name(wanted.name)
        if name not in found and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            found.add(name)
            pending += [Requirement(text) for text in distribution(name).requires or ()]
    return found


def build_wheel(folder: Path) -> Path:
    """detq as it would be published, built in ``folder`` from a copy of the checkout."""
    for name in _SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / "checkout" / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / "checkout" / name)
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps")
    options = ("--no-build-isolation", "--wheel-dir", str(folder), str(folder / "checkout"))
    subprocess.run([*command, *options], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def make_install(folder: Path, wheel: Path, packages: Iterable[str]) -> Install:
    """A virtual environment of this wheel and these packages alone."""
    venv.create(folder, symlinks=True)
    places = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", vars=places))
    for name in packages:
        _link(name, site)
    ZipFile(wheel).extractall(site)
    return Install(folder / "bin/python")


def _link(package: str, site: Path) -> None:
    found = distribution(package)
    tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}
    for top in tops:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(found.locate_file(top))))
