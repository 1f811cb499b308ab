"""Every command in README and docs exists, with its options, as it is written there."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from pages import PAGES, ROOT, Command, blocks, commands
from typer.exceptions import TyperException

from detq.cli.commands import app

GROUP = typer.main.get_command(app)
OPTIONS = {
    name: {"--help"}.union(
        *((*parameter.opts, *parameter.secondary_opts) for parameter in command.params)
    )
    for name, command in GROUP.commands.items()  # type: ignore[attr-defined]
}
OF_DETQ = {"--version", "--help", "--install-completion", "--show-completion"}
OF_OTHERS = {
    "--no-deps": "pip",
    "--constraint": "pip",
    "--user": "docker run",
    "--publish": "docker run",
    "--cpus": "docker run",
    "--cpuset-cpus": "docker run",
    "--option": "an example of any option",
}
"""Options in the running text that are not detq's -> whose they are."""
_OTHER_PROGRAMS = {"pip", "docker", "python", "pytest", "make", "apt-get", "cmake"}
_TOOLS = "".join(path.read_text() for path in (ROOT / "tools").glob("*.py"))
ANY = OF_DETQ.union(*OPTIONS.values(), OF_OTHERS, re.findall(r'"(--[a-z][a-z0-9-]*)"', _TOOLS))
_OPTION = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")
ALL = [command for page in PAGES for command in commands(page)]


def _of(program: str) -> list[Command]:
    return [command for command in ALL if command.words[0] == program]


def _in_image(command: Command) -> Command:
    """What ``docker run OPTIONS detq COMMAND …`` runs: the image is called like the program."""
    begin = command.words.index("detq")
    return Command(command.page, command.line, command.words[begin:])


RUN_IN_IMAGE = [
    _in_image(one) for one in _of("docker") if one.words[1] == "run" and "detq" in one.words
]


@pytest.mark.parametrize("command", [*_of("detq"), *RUN_IN_IMAGE], ids=str)
def test_command_line_takes_it(command: Command) -> None:
    name, *arguments = command.words[1:]
    if name.startswith("-"):
        assert name in OF_DETQ
        return
    assert name in OPTIONS, f"{command}: no such command"
    try:
        GROUP.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
    except TyperException as error:
        pytest.fail(f"{command}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES)
def test_options_in_the_text_exist(page: str) -> None:
    """``detq eval --rect`` and ``eval --rect`` of that command, ``--rect`` of any, or of a tool."""
    for block in blocks(page):
        words = block.text.removeprefix("detq ").split()
        if block.language != "inline" or not words or words[0] in _OTHER_PROGRAMS:
            continue
        if block.text.startswith("detq ") and re.fullmatch("[a-z]+", words[0]):
            assert words[0] in OPTIONS, f"{page}:{block.line}: {block.text}: no such command"
        known = OPTIONS[words[0]] if words[0] in OPTIONS and len(words) > 1 else ANY
        for option in _OPTION.findall(block.text):
            assert option in known, f"{page}:{block.line}: {block.text}: no option {option}"


@pytest.mark.parametrize("command", _of("python"), ids=str)
def test_tool_has_its_options(command: Command) -> None:
    script = next((word for word in command.words[1:] if not word.startswith("-")), "")
    if not script.endswith(".py"):
        assert command.words[1] in ("-m", "-c"), command
        return
    path = ROOT / script
    own = path.read_text()
    shared = re.findall(r"^from (\w+) import", own, re.MULTILINE)  # of tools, as zoo_parser
    others = [path.with_name(f"{name}.py") for name in shared]
    source = own + "".join(other.read_text() for other in others if other.exists())
    for option in _OPTION.findall(shlex.join(command.words[2:])):
        assert f'"{option}"' in source, f"{command}: {script} has no {option}"


@pytest.mark.parametrize("command", _of("make"), ids=str)
def test_target_exists(command: Command) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(command.words[1:]) <= set(targets), command


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for page in PAGES:
        text = Path(ROOT / page).read_text("utf-8")
        for extras in re.findall(r"(?:detq|'\.)\[([a-z,]+)\]", text):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), (page, extras)


def test_the_documents_hold_commands() -> None:
    """Or the reader of pages finds none, and every test here holds."""
    assert len(_of("detq")) > 50
    assert {command.words[1] for command in _of("detq")} >= OPTIONS.keys()
    assert len(_of("python")) > 15
    assert RUN_IN_IMAGE
