"""``detq inspect``"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from detq.cli.arguments import ImageSize, Json, Layout, Model, image_size


def inspect(
    model: Model,
    imgsz: ImageSize = None,
    layout: Layout = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw weight histograms to this PNG file.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Per convolution: shape, centre-to-surround ratio, weight error of plain INT8 and of CFWS."""
    from detq import api
    from detq.cli.opening import tell_found
    from detq.console.files import check_file, write_file, write_json
    from detq.console.layers import print_layers
    from detq.console.terminal import note, progress_bars
    from detq.extras import EXTRAS, require
    from detq.report.layers import layer_reports

    check_file(json_file)
    check_file(plot)
    if plot is not None:
        require("--plot", *EXTRAS["quantize"])
    size = image_size(imgsz)
    with progress_bars() as report:
        graph = api.load(model, imgsz=size, layout=layout, progress=report)
    tell_found(model, graph)
    reports = layer_reports(graph)
    print_layers(reports)
    if plot is not None:
        from detq.report.figures import weight_histograms_png

        write_file(plot, weight_histograms_png(graph))
        note(f"weight histograms in {plot}")
    write_json(json_file, {"layers": [asdict(layer) for layer in reports]})
