"""The convolutions of a model, and what INT8 does to their weights."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from detq.console.numbers import number
from detq.console.terminal import stdout
from detq.report.layers import LayerReport


def print_layers(reports: Sequence[LayerReport]) -> None:
    """One row per convolution; re-parameterized ones are marked."""
    table = Table("convolution", "part", "shape", box=None, pad_edge=False)
    for heading in ("rep", "centre/surround", "plain INT8 dB", "CFWS dB", "gain dB"):
        table.add_column(heading, justify="right")
    for report in reports:
        gain = None if report.cfws_db is None else report.cfws_db - report.plain_db
        table.add_row(
            escape(report.name),
            report.part,
            "x".join(map(str, report.shape)),
            "yes" if report.reparameterized else "",
            f"{report.center_to_surround:.1f}",
            f"{report.plain_db:.1f}",
            number(report.cfws_db, 1),
            number(gain, 1),
        )
    stdout.print(table)
