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
        Literal["onnx", "onnx-qdq", "openvino", "ovms"],
        typer.Option(
            help="Float ONNX with split weights, INT8 ONNX, an OpenVINO directory, or a repository "
            "for OpenVINO Model Server."
        ),
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
    embed_preprocess: Annotated[
        bool,
        typer.Option(
            "--embed-preprocess",
            help="With openvino and ovms: a graph from pixels of any size to boxes.",
        ),
    ] = False,
    confidence: Annotated[
        float | None, typer.Option(help="Of --embed-preprocess: least score; 0.25.")
    ] = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="With openvino and ovms: for Arm and GPUs too.")
    ] = False,
    iou: Annotated[
        float | None, typer.Option(help="Of --embed-preprocess: overlap of one object; 0.45.")
    ] = None,
) -> None:
    """Write a model for other programs: ONNX in float or INT8, OpenVINO, a model server."""
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
            embed_preprocess=embed_preprocess,
            confidence=confidence,
            iou=iou,
            portable=portable,
            progress=report,
        )
    note(f"wrote {path}")
