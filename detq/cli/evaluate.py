"""``detq eval``"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from detq.cli.arguments import (
    Address,
    Data,
    Device,
    Engine,
    ImageSize,
    Json,
    Layout,
    Models,
    PerClass,
    Preset,
    image_size,
)
from detq.errors import ConfigError
from detq.progress import labelled


def evaluate(
    models: Models,
    data: Data,
    split: Annotated[str, typer.Option(help="Split to evaluate on.")] = "val",
    imgsz: ImageSize = None,
    layout: Layout = None,
    preset: Preset = None,
    rect: Annotated[
        bool, typer.Option("--rect", help="Inputs of the images' own shapes, without padding.")
    ] = False,
    per_class: PerClass = False,
    device: Device = "CPU",
    engine: Engine = "local",
    address: Address = None,
    json_file: Json = None,
) -> None:
    """COCO mAP, or top-1 and top-5, of one or more models on one split."""
    from detq import api
    from detq.cli.opening import check_classes, open_data, options_for, warn_of_doubts
    from detq.console.classes import print_classes
    from detq.console.files import check_file, write_json
    from detq.console.scores import note_left_out, print_scores, scores_document
    from detq.console.terminal import progress_bars
    from detq.tasks import strategy_of

    check_file(json_file)
    size, named = image_size(imgsz), api.device_named(device)
    chosen = [options_for(model, named) for model in models]
    rows = []
    with progress_bars() as report:
        dataset = open_data(data, report)
        graphs = [api.load(model, imgsz=size, layout=layout, progress=report) for model in models]
        strategy, *others = {strategy_of(graph.spec) for graph in graphs}
        if others:
            raise ConfigError("detectors and classifiers share no table: evaluate them apart")
        check_classes(graphs[0], wanted=per_class)
        doubts = warn_of_doubts(dict(zip(models, graphs, strict=True)), dataset, split)
        for model, graph, options in zip(models, graphs, chosen, strict=True):
            result = api.evaluate(
                graph,
                data=dataset,
                split=split,
                preset=preset,
                rect=rect,
                options=options,
                engine=engine,
                address=address,
                progress=labelled(report, str(model) if len(models) > 1 else ""),
            )
            rows.append(replace(result, model=str(model)))
    print_scores(rows, strategy.COLUMNS)
    if per_class:
        print_classes(rows)
    note_left_out(split, rows[0].data)
    document = scores_document(rows, split, per_class=per_class)
    for row, options in zip(document["models"], chosen, strict=True):
        row["float_precision"] = options.float_precision
    write_json(json_file, {**document, "doubts": doubts})
