"""Which runtime options suit a model on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from detq import api
from detq.api.running import check_tunable
from detq.console.numbers import number
from detq.console.terminal import progress_bars, stdout
from detq.progress import labelled
from detq.runtime.tuned import FILE, tuned_settings


def tune_models(models: Sequence[Path], images: Path | None) -> dict[str, Any]:
    """Tune every exported directory, and print what was tried; the same as plain values."""
    document = {}
    for model in models:
        check_tunable(model)
    for model in models:
        with progress_bars() as report:
            progress = partial(labelled(report, str(model)), "measuring")
            tuning = api.tune(model, images=images, progress=progress)
        _print(str(model), tuning)
        document[str(model)] = [
            {
                **tuned_settings(one.options),
                "images_per_s": one.speed.images_per_s,
                "agreement": one.agreement,
            }
            for one in tuning.tried
        ]
    return {"tuned": document}


def _print(model: str, tuning: api.Tuning) -> None:
    table = Table("streams", "pinned", "float", box=None, pad_edge=False)
    for heading in ("images/s", "agreement"):
        table.add_column(heading, justify="right")
    for one in tuning.tried:
        options = one.options
        table.add_row(
            *(
                "own choice" if value is None else str(value).lower()
                for value in (options.streams, options.pinning)
            ),
            options.float_precision,
            number(one.speed.images_per_s, 1),
            number(one.agreement, 2),
            style="bold" if one is tuning.best else None,
        )
    stdout.print(table)
    own, best = tuning.tried[0], tuning.best
    gain = (best.speed.images_per_s or 0.0) / (own.speed.images_per_s or 1.0)
    kept = (
        f"the best, {gain:.2f}x its own choice,"
        if best is not own
        else "OpenVINO's own choice stays"
    )
    stdout.print(f"{model}: {kept} in {FILE}", markup=False, highlight=False)
