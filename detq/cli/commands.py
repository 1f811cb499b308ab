"""The commands of ``detq``, and what all of them take."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any

import typer

from detq.cli.bench import bench
from detq.cli.convert import convert
from detq.cli.demo import demo
from detq.cli.digits import digits
from detq.cli.evaluate import evaluate
from detq.cli.export import export
from detq.cli.inspect import inspect
from detq.cli.predict import predict
from detq.cli.quantize import quantize
from detq.cli.quickstart import quickstart

app = typer.Typer(
    name="detq",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"detq {importlib.metadata.version('detq')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """INT8 deployment of re-parameterized object detectors on CPUs, without retraining."""


def _with_quiet(command: Callable[..., None]) -> Callable[..., None]:
    """The command with one more option."""

    @wraps(command)
    def run(*, quiet: bool, **arguments: Any) -> None:
        from detq.console.terminal import Manner

        Manner.is_quiet = quiet
        command(**arguments)

    known = signature(command, eval_str=True)
    option = Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Results, warnings and errors alone."),
    ]
    added = Parameter("quiet", Parameter.KEYWORD_ONLY, default=False, annotation=option)
    run.__signature__ = known.replace(parameters=[*known.parameters.values(), added])  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, "quiet": option}
    return run


app.command()(_with_quiet(quantize))
app.command(name="eval")(_with_quiet(evaluate))
for command in (bench, predict, inspect, convert, export, digits, quickstart, demo):
    app.command()(_with_quiet(command))
