"""Options of ``detq quantize`` alone."""

from __future__ import annotations

from typing import Annotated

import typer

from detq.cli.arguments import RECIPE_HELP

Recipe = Annotated[str, typer.Option(help=RECIPE_HELP)]
Split = Annotated[
    str | None, typer.Option(help="Split to measure mAP on; val if the data set has it.")
]
Compare = Annotated[
    list[str] | None,
    typer.Option(help="Measure this recipe beside the chosen one; may be repeated."),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(min=0, help="Give layers back to float until INT8 loses at most this much mAP."),
]
Explain = Annotated[
    bool, typer.Option("--explain", help="Print what every pass did, cost and gained.")
]
TimeLimit = Annotated[
    float, typer.Option(min=0, help="Minutes that --max-drop may take; a rerun goes on.")
]
