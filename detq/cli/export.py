"""``detq export``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from detq.cli.arguments import (
    RECIPE_HELP,
    CalibrationImages,
    CalibrationSplit,
    ImageSize,
    Layout,
    Model,
    image_size,
)


def export(
    model: Model,
    format: Annotated[
        Literal["onnx", "onnx-qdq", "openvino"],
        typer.Option(help="Float ONNX with split weights, INT8 ONNX, or an OpenVINO directory."),
    ] = "onnx",
    output: Annotated[Path | None, typer.Option(help="File or directory to write.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Quantize on this data set first; as for quantize.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help=f"{RECIPE_HELP} By default measured, with --data.")
    ] = None,
    imgsz: ImageSize = None,
    layout: Layout = None,
    calib_images: CalibrationImages = None,
    calib_split: CalibrationSplit = "train",
) -> None:
    """Write a model for other toolchains: ONNX in float or INT8, or OpenVINO."""
    from detq import api
    from detq.cli.opening import check_quantizer, open_data
    from detq.console.terminal import note, progress_bars

    check_quantizer("export", model)
    with progress_bars() as report:
        path = api.export(
            model,
            output,
            format=format,
            data=None if data is None else open_data(data, report),
            recipe=recipe,
            imgsz=image_size(imgsz),
            layout=layout,
            calibration_images=calib_images,
            split=calib_split,
            progress=report,
        )
    note(f"wrote {path}")
