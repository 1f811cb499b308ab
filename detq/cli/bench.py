"""``detq bench``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detq.cli.arguments import Device, ImageSize, Json, Layout, Models, Threads, image_size
from detq.cli.bench_options import Peers, Pin, Rect, Source, Streams, Tune, check_tuning
from detq.errors import ConfigError


def bench(
    models: Models,
    imgsz: ImageSize = None,
    layout: Layout = None,
    rounds: Annotated[int, typer.Option(min=1, help="Inferences per model.")] = 50,
    bursts: Annotated[
        int, typer.Option(min=0, help="Bursts of half a second to measure throughput with.")
    ] = 3,
    threads: Threads = None,
    streams: Streams = None,
    pin: Pin = None,
    device: Device = "CPU",
    source: Source = None,
    peer: Peers = None,
    rect: Rect = None,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Also show where time goes; with --source by stage, too."),
    ] = False,
    tune: Tune = False,
    json_file: Json = None,
) -> None:
    """Speed of one or more models, measured in turns so that the comparison is fair."""
    from detq import api
    from detq.console.files import check_file, write_json
    from detq.console.speed import print_speeds
    from detq.console.terminal import progress_bars
    from detq.console.tuning import tune_models
    from detq.data.sources import kind_of
    from detq.programs.speeds import check_peers, measure_speeds

    check_file(json_file)
    options = api.RuntimeOptions(api.device_named(device), threads, streams=streams, pinning=pin)
    if options.device != "CPU" and (tune or layers or peer):
        raise ConfigError("--tune, --layers, --peer: are about the CPU; leave out --device")
    if rect is not None and source is None:
        raise ConfigError("--rect, --square: are for --source; leave them out")
    if tune:
        check_tuning(peer or None, layers or None, rect, imgsz, layout, threads, streams, pin)
        write_json(json_file, tune_models(models, None if source is None else Path(source)))
        return
    check_peers(peer or (), source)
    size, is_video = image_size(imgsz), source is not None and kind_of(source) == "video"
    with progress_bars() as report:
        graphs = [api.load(model, imgsz=size, layout=layout, progress=report) for model in models]
        speeds = measure_speeds(
            list(zip(models, graphs, strict=True)),
            rounds=rounds,
            bursts=bursts,
            source=source,
            peers=peer or (),
            layers=layers,
            rect=False if rect is None and not is_video else rect,
            options=options,
            progress=report,
        )
    print_speeds(speeds)
    write_json(json_file, speeds.to_dict())
