"""``detq predict``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detq.cli.arguments import (
    Address,
    Device,
    Engine,
    ImageSize,
    Json,
    Layout,
    Model,
    Threads,
    image_size,
    share,
    words,
)
from detq.cli.predict_options import Format, Rect, Sources, Truth


def predict(
    model: Model,
    source: Sources,
    output: Annotated[Path, typer.Option(help="Directory for the rows.")] = Path("predictions"),
    format_: Format = "jsonl",
    draw: Annotated[bool, typer.Option("--draw", help="Also write pictures with boxes.")] = False,
    track: Annotated[bool, typer.Option("--track", help="Ids that stay, in videos.")] = False,
    imgsz: ImageSize = None,
    layout: Layout = None,
    confidence: Annotated[float, typer.Option(help="Least score of a detection.")] = 0.25,
    iou: Annotated[float, typer.Option(help="Overlap above which boxes are one object.")] = 0.45,
    classes: Annotated[str | None, typer.Option(help="Keep these alone: cat,dog.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Of a video, every N-th frame.")] = 1,
    start: Annotated[float, typer.Option(min=0, help="Of a video, from this second on.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="Of a video, before this second.")] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="Of each source.")] = None,
    rect: Rect = None,
    annotations: Truth = None,
    engine: Engine = "local",
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Every N-th shard alone, from the I-th on.")
    ] = None,
    shard_images: Annotated[int, typer.Option(min=1, help="Images of a shard.")] = 1000,
    workers: Annotated[int | None, typer.Option(min=1, help="With Ray; all there is.")] = None,
    threads: Threads = None,
    device: Device = "CPU",
    address: Address = None,
    json_file: Json = None,
) -> None:
    """Find objects in any number of images; a rerun goes on where a run was stopped."""
    from detq import api
    from detq.cli.opening import options_for
    from detq.console.files import check_file
    from detq.console.predictions import check_place, going_on, show
    from detq.console.terminal import progress_bars
    from detq.data.frames import Cut

    check_file(json_file)
    check_place(json_file, output)
    on = api.device_named(device)
    work = api.Workers(engine, share(shard), shard_images, workers, threads, on, address)
    with going_on(output), progress_bars() as report:
        graph = api.load(model, imgsz=image_size(imgsz), layout=layout, progress=report)
        run = api.predict_many(
            graph,
            source,
            output=output,
            format=format_,
            draw=draw,
            track=track,
            cut=Cut(every, start, end, max_images),
            classes=None if classes is None else words(classes),
            confidence=confidence,
            iou=iou,
            rect=rect,
            annotations=annotations,
            workers=work,
            options=options_for(model, on),
            progress=report,
        )
    show(graph, run, json_file)
