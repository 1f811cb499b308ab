"""The examples in README and docs: what a reader would type, with the place where it stands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    path.relative_to(ROOT).as_posix()
    for folder in ("", "docs", "demo", "weights")
    for path in sorted((ROOT / folder).rglob("*.md") if folder else ROOT.glob("*.md"))
    if path.name != "CHANGELOG.md"  # tells of options that are gone
)
PROGRAMS = ("detq", "python", "make", "pip", "docker")
_SHELL = ("", "sh", "bash", "console")
"""Languages of blocks that may hold commands; an indented block has none."""
_VARIABLE = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Block:
    """A code block or, where ``language`` is "inline", words in the running text."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command; its first word is the program, without the folder that it lies in."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


def blocks(page: str) -> Iterator[Block]:
    """All code of a page, in its order."""
    tokens = MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text("utf-8"))
    line = 0
    for token in tokens:
        line = token.map[0] + 1 if token.map else line
        if token.type in ("fence", "code_block"):
            language = token.info.split()[0] if token.info else ""
            first = line + (token.type == "fence")
            yield Block(page, first, language, token.content)
        for child in token.children or ():
            if child.type == "code_inline":
                yield Block(page, line, "inline", child.content)


def commands(page: str) -> Iterator[Command]:
    """The commands in the blocks of a page; what programs print there is none."""
    for block in blocks(page):
        if block.language in _SHELL:
            yield from _shell_commands(block)
        elif block.language == "yaml":
            for text in _strings(list(yaml.safe_load_all(block.text))):
                yield from _shell_commands(Block(page, block.line, "sh", text))


def _shell_commands(block: Block) -> Iterator[Command]:
    text = block.text.replace("\\\n", "  ")
    for offset, line in enumerate(text.splitlines()):
        try:
            words = shlex.split(line.removeprefix("$ "), comments=True)
        except ValueError:  # an apostrophe in what a program printed
            continue
        while words and _VARIABLE.fullmatch(words[0]):
            del words[0]
        if len(words) > 1 and (program := Path(words[0]).name) in PROGRAMS:
            yield Command(block.page, block.line + offset, (program, *words[1:]))


def _strings(document: Any) -> Iterator[str]:
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict):
        for value in document.values():
            yield from _strings(value)
    elif isinstance(document, list):
        for value in document:
            yield from _strings(value)
