"""Builds the documentation site and checks it: ``make docs``.

    python tools/docs_site.py build/docs

The pages lie as in the repository, so that the links of README and docs hold in both places; added
are the files of the recipes and the reference of the Python API. Every warning is an error, and so
is a link that leads nowhere or a page that would fetch something from elsewhere.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "docs/**/*.md", "weights/*.md", "demo/**/*.md")
"""What the site consists of; what it links to is added."""
SITE = ROOT / "docs/site"
_TARGET = re.compile(r"\]\((?![a-z]+:)([^)#\s]+)")
FETCHING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
"""Elements that a browser fetches something for -> the attribute that says what."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    shutil.rmtree(folder, ignore_errors=True)
    lay_out(folder / "pages")
    settings = (SITE / "zensical.toml").read_text("utf-8").replace("REPOSITORY", ROOT.as_posix())
    (folder / "zensical.toml").write_text(settings, "utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    subprocess.run(command, cwd=folder, check=True)
    if faults := list(check(folder / "site")):
        sys.exit("\n".join(faults))
    print(f"open {folder / 'site/index.html'}")


def lay_out(pages: Path) -> None:
    """The Markdown files of the site and what they link to, in a folder of their own."""
    for pattern in PAGES:
        for path in ROOT.glob(pattern):
            _write(pages / path.relative_to(ROOT), _for_python_markdown(path.read_text("utf-8")))
    _write(pages / "configs/README.md", recipe_files())
    _write(pages / "api.md", api_reference())
    for path in list(pages.rglob("*.md")):
        _add_what_it_links_to(path, pages)
    for path in SITE.glob("*.[cj]s*"):
        _write(pages / "assets" / path.name, path.read_text("utf-8"))


def _add_what_it_links_to(page: Path, pages: Path) -> None:
    """Pictures and other files of the repository. A link to a folder leads to its README."""
    text = page.read_text("utf-8")
    for target in set(_TARGET.findall(text)):
        inside = (page.parent / target).resolve().relative_to(pages.resolve())
        if (pages / inside).is_dir():
            text = text.replace(f"]({target})", f"]({target.rstrip('/')}/README.md)")
        elif (ROOT / inside).is_file() and not (pages / inside).exists():
            (pages / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / inside, pages / inside)
    page.write_text(text, "utf-8")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _for_python_markdown(text: str) -> str:
    """It wants four spaces where an item of a list goes on, and a line between long items."""
    text = re.sub(r"^ {3}(?=\S)", " " * 4, text, flags=re.MULTILINE)
    return re.sub(r"(\n {4}\S.*)\n(?=\d\. )", r"\1\n\n", text)


def recipe_files() -> str:
    """A page with all recipes that detq brings."""
    page = ["# Recipe files", "What the keys mean: [recipes](../docs/recipes.md)."]
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        page += [f"## {path.stem}", f"```yaml\n{path.read_text('utf-8').strip()}\n```"]
    return "\n\n".join(page) + "\n"


def api_reference() -> str:
    """A page with everything that ``import detq`` offers: functions, then classes."""
    names = _public_names()
    page = ["# Python API", "What `import detq` offers. A guide: [README](README.md#from-python)."]
    for title, is_class in (("Functions", False), ("Classes", True)):
        its = [name for name in names if name[0].isupper() == is_class]
        page += [f"## {title}", *(f"::: detq.{name}" for name in its)]
    page += ["## Other libraries", "::: detq.exchange"]
    return "\n\n".join(page) + "\n"


def _public_names() -> list[str]:
    """``detq.__all__``, read and not imported."""
    for node in ast.parse((ROOT / "detq/__init__.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise SystemExit("detq/__init__.py: has no __all__")


@dataclass
class Page(HTMLParser):
    """What a page of the site refers to, and what of it others may refer to."""

    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        HTMLParser.__init__(self)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        its = {name: value or "" for name, value in attrs}
        self.anchors |= {its[name] for name in ("id", "name") if name in its}
        if tag == "a" and "href" in its:
            self.links.append(its["href"])
        if its.get(FETCHING.get(tag, "")):
            self.fetched.append(its[FETCHING[tag]])
        if tag == "link" and its.get("rel") not in ("canonical", "next", "prev"):
            self.fetched.append(its["href"])


def check(site: Path) -> Iterator[str]:
    """A line for each link that leads nowhere and for each thing that is fetched from elsewhere."""
    pages = {path: _read(path) for path in site.rglob("*.html") if path.name != "404.html"}
    for path, page in pages.items():
        where = path.relative_to(site)
        for address in page.fetched:
            if urlsplit(address).netloc:
                yield f"{where}: fetches {address}"
        for address in (*page.links, *page.fetched):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                yield f"{where}: {address}: no such file"
            elif target in pages and parts.fragment:
                wanted = unquote(parts.fragment)
                if wanted not in pages[target].anchors:
                    yield f"{where}: {address}: no such place in it"


def _read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text("utf-8"))
    return page


if __name__ == "__main__":
    main()
