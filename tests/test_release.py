"""What is published: complete, the same bytes wherever it is made, links that lead somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from installs import ROOT, build_wheel

sys.path.insert(0, str(ROOT / "tools"))
import release

TIME_S = 1_700_000_000


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return release.build(tmp_path_factory.mktemp("dist"), TIME_S)


@pytest.fixture
def other_habits() -> Iterator[None]:
    """Of a machine on which new files are for their owner alone."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_second_build_is_the_same_to_the_byte(
    published: tuple[Path, Path], tmp_path: Path, other_habits: None
) -> None:
    again = release.build(tmp_path, TIME_S)
    for first, second in zip(published, again, strict=True):
        assert first.name == second.name
        assert first.read_bytes() == second.read_bytes()


def test_wheel_of_the_source_distribution_is_that_of_the_checkout(
    published: tuple[Path, Path], tmp_path: Path
) -> None:
    wheels = [ZipFile(path) for path in (published[1], build_wheel(tmp_path))]
    first, second = ({name: wheel.read(name) for name in wheel.namelist()} for wheel in wheels)
    assert sorted(first) == sorted(second)
    assert first == second


def test_source_distribution_holds_all_that_git_knows(published: tuple[Path, Path]) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not in a git repository")
    with tarfile.open(published[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    known = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert known - names == set()
    made = {"PKG-INFO", "setup.cfg", "pyproject.toml"}
    extra = {name for name in names - known - made if "detq.egg-info" not in name}
    assert not [name for name in extra if name.endswith((".pyc", ".log", ".part"))]


def test_readme_leads_to_the_repository_where_it_is_read() -> None:
    text = "![a](docs/a.webp) [b](docs/b.md#c) [d](https://x.org) [e](#f) `[g](h)`"
    url = "https://example.org/o/n"
    assert release.absolute_links(text, url, "1.2").startswith(
        f"![a]({url}/raw/v1.2/docs/a.webp) [b]({url}/blob/v1.2/docs/b.md#c) [d](https://x.org) "
        "[e](#f)"
    )
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "](docs/" not in release.absolute_links(readme, url, "1.2")
