"""``detq quantize``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detq.cli.arguments import (
    CalibrationImages,
    CalibrationSplit,
    Data,
    Device,
    ImageSize,
    Json,
    Layout,
    Model,
    PerClass,
    Preset,
    image_size,
)
from detq.cli.quantize_options import Compare, Explain, MaxDrop, Recipe, Split, TimeLimit

LATENCY_ROUNDS = 20


def quantize(
    model: Model,
    data: Data,
    recipe: Recipe = "measured",
    imgsz: ImageSize = None,
    layout: Layout = None,
    calib_images: CalibrationImages = None,
    calib_split: CalibrationSplit = "train",
    split: Split = None,
    compare: Compare = None,
    preset: Preset = None,
    max_drop: MaxDrop = None,
    time_limit: TimeLimit = 60.0,
    device: Device = "CPU",
    per_class: PerClass = False,
    explain: Explain = False,
    output: Annotated[Path | None, typer.Option(help="Directory to write.")] = None,
    json_file: Json = None,
) -> None:
    """Quantize a model to INT8, measure what it lost, and write the exported directory."""
    from detq import api
    from detq.artifact import check_writable
    from detq.cli.opening import (
        check_classes,
        check_quantizer,
        open_data,
        tell_found,
        warn_of_doubts,
    )
    from detq.console.files import check_file, write_json
    from detq.console.terminal import progress_bars

    check_quantizer("quantize", model)
    from detq.console import quantization as console

    check_writable(directory := output or Path(f"{model.stem}_int8_openvino_model"))
    check_file(json_file)
    recipes, size = api.load_recipes([*(compare or ()), recipe]), image_size(imgsz)
    device = api.device_named(device)
    limit = None
    if max_drop is not None:
        memory = directory.with_name(f"{directory.name}.guard.json")
        limit = api.MaxDrop(max_drop, limit_s=60 * time_limit, memory=memory)
    with progress_bars() as report:
        dataset = open_data(data, report)
        graph = api.load(model, imgsz=size, layout=layout, progress=report)
        check_classes(graph, wanted=per_class)
        judged = api.judged_split(graph, dataset, split) or calib_split
        doubts = warn_of_doubts({model: graph}, dataset, judged)
        comparison = api.compare(
            graph,
            recipes,
            data=dataset,
            split=split,
            preset=preset,
            calibration_images=calib_images,
            calibration_split=calib_split,
            max_drop=limit,
            rounds=LATENCY_ROUNDS,
            device=device,
            progress=report,
        )
    tell_found(model, graph)
    comparison.save(directory)
    if explain:
        console.print_passes(comparison.result)
    console.print_quantization(comparison, directory, rounds=LATENCY_ROUNDS, per_class=per_class)
    document = console.quantization_document(
        comparison, directory, calib_split, doubts, per_class=per_class
    )
    write_json(json_file, document)
