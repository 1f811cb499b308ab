"""``detq digits``"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer


def digits(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the data set.")],
    split: Annotated[
        list[str] | None, typer.Option(help="train, val or test; may be repeated. All by default.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Scenes per split. 12000, 300 and 500 by default.")
    ] = None,
    size: Annotated[int, typer.Option(min=64, help="Side of a scene in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other scenes.")] = 0,
) -> None:
    """Make a detection data set of handwritten digits: images, COCO JSON, labels, data.yaml."""
    from detq.console.terminal import note, progress_bars
    from detq.data.digits import write_digits
    from detq.extras import require

    require("detq digits", "sklearn")
    with progress_bars() as report:
        for name in split or ("train", "val", "test"):
            path = write_digits(
                output,
                split=name,
                images=images,
                seed=seed,
                size_px=size,
                progress=partial(report, f"drawing {name} scenes"),
            )
    note(f"data set described in {path}")
