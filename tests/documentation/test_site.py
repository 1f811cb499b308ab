"""The documentation site: complete, without a link that leads nowhere, and read without network."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from pages import ROOT

import detq

sys.path.insert(0, str(ROOT / "tools"))
from docs_site import PAGES, api_reference, check

TOOL = ROOT / "tools/docs_site.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zensical")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, TOOL, folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_all_pages_are_built(site: Path) -> None:
    for pattern in PAGES:
        for path in ROOT.glob(pattern):
            if path.suffix == ".md" and path.name != "README.md":
                assert (site / path.relative_to(ROOT).with_suffix(".html")).is_file(), path
    assert (site / "index.html").is_file()


def test_every_page_is_in_the_navigation() -> None:
    settings = tomllib.loads((ROOT / "docs/site/zensical.toml").read_text("utf-8"))
    pages = set(_leaves(settings["project"]["nav"]))
    made = {"api.md", "configs/README.md"}
    files = {path.relative_to(ROOT).as_posix() for each in PAGES for path in ROOT.glob(each)}
    assert pages == files | made


def _leaves(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for each in entry.values() if isinstance(entry, dict) else entry:
            yield from _leaves(each)


def test_every_public_name_is_described(site: Path) -> None:
    page = (site / "api.html").read_text("utf-8")
    for name in detq.__all__:
        assert f"::: detq.{name}\n" in api_reference()
        assert f'id="detq.{name}"' in page, name
    assert ":class:" not in page
    assert ":func:" not in page


def test_every_recipe_is_shown(site: Path) -> None:
    page = (site / "configs/index.html").read_text("utf-8")
    for path in (ROOT / "configs").glob("*.yaml"):
        assert f'id="{path.stem}"' in page


def test_search_works_from_disk_and_nothing_is_fetched(site: Path, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.open((site / "docs/cli.html").as_uri())
        browser.wait_for("typeof __index === 'object' && document.readyState === 'complete'")
        browser.value("document.querySelector('.md-search__button').click()")
        browser.wait_for("document.activeElement.shadowRoot?.activeElement?.tagName === 'INPUT'")
        browser.call("Input.insertText", text="letterbox")
        browser.wait_for("document.activeElement.shadowRoot.querySelector('a[href*=evaluation]')")
        fetched = browser.value("performance.getEntriesByType('resource').map(({name}) => name)")
        assert [name for name in fetched if not name.startswith(("file:", "data:"))] == []
        assert browser.errors == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="b.html">', None),
        ('<a href="b.html#here">', None),
        ('<a href="#top">', "index.html: #top: no such place in it"),
        ('<a href="b.html#nowhere">', "index.html: b.html#nowhere: no such place in it"),
        ('<a href="c.html">', "index.html: c.html: no such file"),
        ('<img src="a.png">', "index.html: a.png: no such file"),
        ('<a href="https://example.org/">', None),
        ('<script src="https://example.org/a.js">', "fetches https://example.org/a.js"),
        ('<link rel="stylesheet" href="//example.org/a.css">', "fetches //example.org/a.css"),
    ],
)
def test_faults_of_a_site_are_found(tmp_path: Path, body: str, fault: str | None) -> None:
    (tmp_path / "index.html").write_text(body)
    (tmp_path / "b.html").write_text('<h2 id="here">')
    found = list(check(tmp_path))
    assert len(found) == (fault is not None)
    assert all(str(fault) in line for line in found)


def test_broken_link_in_a_page_fails_the_build(tmp_path: Path) -> None:
    pytest.importorskip("zensical")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/README.md").write_text("# A\n\n[b](b.md)\n")
    (tmp_path / "zensical.toml").write_text('[project]\nsite_name = "a"\ndocs_dir = "pages"\n')
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode
