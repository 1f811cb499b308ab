"""``detq predict``"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from detq.cli.arguments import ImageSize, Json, Layout, Model, image_size


def predict(
    model: Model,
    source: Annotated[Path, typer.Argument(help="An image or a folder of images.")],
    output: Annotated[Path, typer.Option(help="Directory for the pictures.")] = Path("predictions"),
    imgsz: ImageSize = None,
    layout: Layout = None,
    confidence: Annotated[float, typer.Option(help="Least score of a detection.")] = 0.25,
    iou: Annotated[float, typer.Option(help="Overlap above which boxes are one object.")] = 0.45,
    json_file: Json = None,
) -> None:
    """Draw the detections of a model on images; of a classifier, tell the best classes."""
    from detq import api
    from detq.console.files import check_file, write_json
    from detq.console.scores import print_predictions
    from detq.console.terminal import note, progress_bars, warn
    from detq.tasks import strategy_of

    check_file(json_file)
    with progress_bars() as report:
        graph = api.load(model, imgsz=image_size(imgsz), layout=layout, progress=report)
        predicted = strategy_of(graph.spec).predict(
            graph, source, output=output, confidence=confidence, iou=iou, progress=report
        )
    print_predictions(predicted.images)
    if predicted.doubt is not None:
        warn(predicted.doubt)
    note(predicted.note)
    write_json(json_file, {"images": [asdict(image) for image in predicted.images]})
