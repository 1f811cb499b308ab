"""The command line: arguments in, tables out. Everything else happens in :mod:`detq.api`.

Imports inside the commands keep ``detq --help`` fast: torch, OpenVINO and NNCF take seconds.
"""

# ruff: noqa: PLC0415
from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

from detq.crash_report import crash_line
from detq.errors import ConfigError, DetqError, one_line
from detq.process import (
    ended_by_signals,
    flush_output,
    leave_deleted_folder,
    open_standard_streams,
    print_error,
    restart_in_utf8,
    watched_threads,
)
from detq.progress import labelled

if TYPE_CHECKING:
    from detq.config import DatasetConfig
    from detq.graph.detector_graph import DetectorGraph
    from detq.progress import Progress
    from detq.records import EvalResult

app = typer.Typer(
    name="detq",
    help="INT8 deployment of re-parameterized object detectors on CPUs, without retraining.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130
"""What Typer makes of a KeyboardInterrupt."""
LATENCY_ROUNDS = 20

_MODEL_HELP = (
    "A checkpoint (.pt, .pth, .safetensors), an .onnx, an exported directory or its .xml; or a "
    "known name: digits_yolov6n, or an official release such as yolov6s, which is downloaded."
)
Model = Annotated[Path, typer.Argument(metavar="MODEL", help=_MODEL_HELP)]
Models = Annotated[list[Path], typer.Argument(metavar="MODEL...", help=_MODEL_HELP)]
Data = Annotated[
    Path,
    typer.Option(
        help="A YAML, a COCO JSON or a folder (docs/data.md); or coco128 or coco to download."
    ),
]
ImageSize = Annotated[
    str | None, typer.Option(metavar="N|HxW", help="Network input size in pixels.")
]
Layout = Annotated[
    str | None,
    typer.Option(help="Of an .onnx or .xml that leaves it open; the error then lists them."),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Inference threads; all cores if not given.")
]
Streams = Annotated[
    int | None, typer.Option(min=1, help="Images that compute side by side; OpenVINO's choice.")
]
Pin = Annotated[
    bool | None, typer.Option("--pin/--no-pin", help="Tie threads to cores; OpenVINO's choice.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the results there as JSON.")]
Preset = Annotated[
    Literal["yolov6", "coco", "ultralytics"] | None,
    typer.Option(help="Evaluation protocol; by default that of the model's official figures."),
]


@app.command()
def quantize(
    model: Model,
    data: Data,
    recipe: Annotated[str, typer.Option(help="Built-in name or YAML file.")] = "measured",
    imgsz: ImageSize = None,
    layout: Layout = None,
    calib_images: Annotated[
        int | None, typer.Option(min=1, help="Calibration images; the recipe says how many.")
    ] = None,
    calib_split: Annotated[str, typer.Option(help="Split to calibrate on.")] = "train",
    split: Annotated[
        str | None, typer.Option(help="Split to measure mAP on; val if the data set has it.")
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="Measure this recipe beside the chosen one; may be repeated."),
    ] = None,
    preset: Preset = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0, help="Give layers back to float until INT8 loses at most this much mAP."
        ),
    ] = None,
    time_limit: Annotated[
        float, typer.Option(min=0, help="Minutes that --max-drop may take; a rerun goes on.")
    ] = 60.0,
    output: Annotated[Path | None, typer.Option(help="Directory to write.")] = None,
    json_file: Json = None,
) -> None:
    """Quantize a model to INT8, measure what it lost, and write the exported directory."""
    from detq import api, console
    from detq.artifact import check_writable

    directory = output or Path(f"{model.stem}_int8_openvino_model")
    check_writable(directory)
    console.check_file(json_file)
    recipes = api.load_recipes([*(compare or ()), recipe])
    size = _size(imgsz)
    guard = directory.with_name(f"{directory.name}.guard.json")
    with console.progress_bars() as report:
        dataset = _dataset(data, report)
        graph = api.load(model, imgsz=size, layout=layout, progress=report)
        measurable = api.is_measurable(graph, dataset, split)
        doubts = _doubts({model: graph}, dataset, (split or "val") if measurable else calib_split)
        comparison = api.compare(
            graph,
            recipes,
            data=dataset,
            split=split,
            preset=preset,
            calibration_images=calib_images,
            calibration_split=calib_split,
            max_drop=None if max_drop is None else api.MaxDrop(max_drop, 60 * time_limit, guard),
            rounds=LATENCY_ROUNDS,
            progress=report,
        )
    _tell_found(model, graph)
    comparison.save(directory)
    console.print_quantization(comparison, directory, rounds=LATENCY_ROUNDS)
    document = console.quantization_document(comparison, directory, calib_split)
    console.write_json(json_file, {**document, "doubts": doubts})


@app.command(name="eval")
def evaluate(
    models: Models,
    data: Data,
    split: Annotated[str, typer.Option(help="Split to evaluate on.")] = "val",
    imgsz: ImageSize = None,
    layout: Layout = None,
    preset: Preset = None,
    json_file: Json = None,
) -> None:
    """COCO mAP, or top-1 and top-5, of one or more models on one split."""
    from detq import api, console
    from detq.tasks import strategy_of

    console.check_file(json_file)
    size = _size(imgsz)
    rows = []
    with console.progress_bars() as report:
        dataset = _dataset(data, report)
        graphs = [api.load(model, imgsz=size, layout=layout, progress=report) for model in models]
        strategy, *others = {strategy_of(graph.spec) for graph in graphs}
        if others:
            raise ConfigError("detectors and classifiers share no table: evaluate them apart")
        doubts = _doubts(dict(zip(models, graphs, strict=True)), dataset, split)
        for model, graph in zip(models, graphs, strict=True):
            progress = labelled(report, str(model) if len(models) > 1 else "")
            rows.append(_evaluate(str(model), graph, dataset, split, preset, progress))
    console.print_scores(rows, strategy.COLUMNS)
    console.note_left_out(split, rows[0].data)
    console.write_json(json_file, {**console.scores_document(rows, split), "doubts": doubts})


@app.command()
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
    source: Annotated[
        Path | None,
        typer.Option(help="A video or images: also measure from file to boxes, start-up, memory."),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="With --source: ultralytics, onnxruntime or benchmark_app beside detq."),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also show where each model spends its time.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Speed of one or more models, measured in turns so that the comparison is fair."""
    from detq import api, console
    from detq.programs import measure_programs
    from detq.runtime.layer_times import layer_times
    from detq.runtime.machine import describe_machine
    from detq.runtime.options import RuntimeOptions
    from detq.tasks import strategy_of

    console.check_file(json_file)
    if peer and source is None:
        raise ConfigError("--peer: needs --source, a video or images to run the programs on")
    options = RuntimeOptions(threads=threads, streams=streams, pinning=pin)
    size = _size(imgsz)
    with console.progress_bars() as report:
        graphs = [api.load(model, imgsz=size, layout=layout, progress=report) for model in models]
        if source is not None and not all(strategy_of(graph.spec).FROM_FILE for graph in graphs):
            raise ConfigError("--source: measures detectors, from file to boxes; leave it out")
        machine = describe_machine(threads=threads)
        results = api.bench(
            graphs,
            rounds=rounds,
            bursts=bursts,
            options=options,
            progress=partial(report, "measuring"),
        )
        programs = []
        if source is not None:
            named = zip(map(str, models), models, graphs, strict=True)
            programs = measure_programs(
                {name: (path, graph) for name, path, graph in named},
                source,
                peers=peer or (),
                rounds=max(bursts, 1),
                options=options,
                progress=partial(report, "measuring programs"),
            )
    rows = [replace(row, model=str(model)) for row, model in zip(results, models, strict=True)]
    console.print_bench(rows, machine)
    if programs:
        console.print_programs(programs)
    document: dict[str, Any] = {
        "machine": asdict(machine),
        "models": [asdict(row) for row in rows],
        "programs": [asdict(row) for row in programs],
    }
    if layers:
        document["layers"] = {}
        for graph, row in zip(graphs, rows, strict=True):
            times = layer_times(graph, rounds=rounds, threads=threads)
            console.print_layer_times(row.model, times)
            document["layers"][row.model] = [asdict(time) for time in times]
    console.write_json(json_file, document)


@app.command()
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
    from detq import api, console
    from detq.tasks import strategy_of

    console.check_file(json_file)
    with console.progress_bars() as report:
        graph = api.load(model, imgsz=_size(imgsz), layout=layout, progress=report)
        predicted = strategy_of(graph.spec).predict(
            graph, source, output=output, confidence=confidence, iou=iou, progress=report
        )
    console.print_predictions(predicted.images)
    if predicted.doubt is not None:
        console.warn(predicted.doubt)
    console.note(predicted.note)
    console.write_json(json_file, {"images": [asdict(each) for each in predicted.images]})


@app.command()
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
    from detq import api, console
    from detq.report.figures import weight_histograms_png
    from detq.report.layers import layer_reports

    console.check_file(json_file)
    console.check_file(plot)
    size = _size(imgsz)
    with console.progress_bars() as report:
        graph = api.load(model, imgsz=size, layout=layout, progress=report)
    _tell_found(model, graph)
    reports = layer_reports(graph)
    console.print_layers(reports)
    if plot is not None:
        console.write_file(plot, weight_histograms_png(graph))
        console.note(f"weight histograms in {plot}")
    console.write_json(json_file, {"layers": [asdict(report) for report in reports]})


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A model to convert.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The file to write.")],
) -> None:
    """Keep a checkpoint as safetensors: the same network, nothing in it that could be executed."""
    from detq import api, console

    with console.progress_bars() as report:
        stored = api.convert(checkpoint, output, progress=report)
    classes = len(stored.class_names)
    console.note(f"{output}: {stored.parameter_count / 1e6:.2f} M parameters, {classes} classes")


@app.command()
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
        str | None, typer.Option(help="Built-in name or YAML file; measured with --data.")
    ] = None,
    imgsz: ImageSize = None,
    layout: Layout = None,
    calib_images: Annotated[
        int | None, typer.Option(min=1, help="Calibration images; the recipe says how many.")
    ] = None,
    calib_split: Annotated[str, typer.Option(help="Split to calibrate on.")] = "train",
) -> None:
    """Write a model for other toolchains: ONNX in float or INT8, or OpenVINO."""
    from detq import api, console

    with console.progress_bars() as report:
        path = api.export(
            model,
            output,
            format=format,
            data=None if data is None else _dataset(data, report),
            recipe=recipe,
            imgsz=_size(imgsz),
            layout=layout,
            calibration_images=calib_images,
            split=calib_split,
            progress=report,
        )
    console.note(f"wrote {path}")


@app.command()
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
    from detq import console
    from detq.data.digits import write_digits

    with console.progress_bars() as report:
        for name in split or ("train", "val", "test"):
            path = write_digits(
                output,
                split=name,
                images=images,
                seed=seed,
                size_px=size,
                progress=partial(report, f"drawing {name} scenes"),
            )
    console.note(f"data set described in {path}")


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path(
        "runs/quickstart"
    ),
    images: Annotated[int, typer.Option(min=20, help="Test scenes.")] = 500,
    json_file: Json = None,
) -> None:
    """The whole job, offline, on the digits model that detq brings along."""
    from detq import console
    from detq.quickstart import quickstart as run

    console.check_file(json_file)
    with console.progress_bars() as report:
        outcome = run(output, images=images, progress=report)
    console.print_quickstart(outcome)
    console.write_json(json_file, console.quickstart_document(outcome))


@app.command()
def demo(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL_HELP)],
    source: Annotated[
        str | None,
        typer.Option(
            help="A camera's number, a video, pictures, or an rtsp:// or http:// stream. Camera 0 "
            "by default; with --web the visitor's own."
        ),
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Show this model beside it.")
    ] = None,
    imgsz: ImageSize = None,
    confidence: Annotated[
        float, typer.Option(min=0, max=0.99, help="Least score of a detection.")
    ] = 0.25,
    iou: Annotated[
        float, typer.Option(min=0, max=1, help="Overlap above which boxes are one object.")
    ] = 0.45,
    threads: Threads = None,
    save: Annotated[
        Path | None, typer.Option(help="No window: record what it would show (.mp4, .avi).")
    ] = None,
    snapshots: Annotated[Path, typer.Option(help="Folder for pictures kept with 's'.")] = Path(),
    web: Annotated[bool, typer.Option("--web", help="A page in the browser.")] = False,
    host: Annotated[str | None, typer.Option(help="With --web: 127.0.0.1 by default.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="With --web: 8000 by default.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="With --web: PEM file with certificate and key, for https.")
    ] = None,
) -> None:
    """Boxes live: a window on the desk, or a page in the browser (--web)."""
    from detq import console
    from detq.demo.launch import Page, prepare
    from detq.demo.runner import Thresholds

    page_options = {"host": host, "port": port, "certificate": certificate}
    chosen = {name: value for name, value in page_options.items() if value is not None}
    if web and save is not None:
        raise ConfigError("--save: records what the window would show; leave out --web")
    if chosen and not web:
        raise ConfigError(f"--{next(iter(chosen))}: only with --web")
    with console.progress_bars() as report:
        show = prepare(
            model,
            compare=compare,
            source=source,
            imgsz=_size(imgsz),
            thresholds=Thresholds(confidence, iou),
            threads=threads,
            target=Page(**chosen) if web else save,
            snapshots=snapshots,
            progress=report,
        )
    show()


def main() -> None:
    """Entry point: whatever goes wrong becomes one line on stderr, and exit status 1 (usage: 2)."""
    restart_in_utf8()
    open_standard_streams()
    leave_deleted_folder()
    with ended_by_signals(), watched_threads() as failures:
        status = _run(failures)
    sys.exit(status)


def _run(failures: list[BaseException]) -> int:
    """The exit status. ``failures`` are what ended threads, which interrupts the main one."""
    try:
        status = app(standalone_mode=False)
        if status == INTERRUPTED or failures:
            raise KeyboardInterrupt
        flush_output()
    except SystemExit:
        raise
    except BaseException as error:  # Rust's panics are no Exception
        with suppress(OSError, ValueError):
            flush_output()
        status = error.exit_code if isinstance(error, TyperException) else 1
        if line := _explained(failures[0] if failures else error):
            print_error(one_line(line))
    return int(status or 0)


def _explained(error: BaseException) -> str:
    """One line; empty where the help was the answer."""
    if isinstance(error, DetqError):
        return str(error)
    if isinstance(error, (typer.Abort, KeyboardInterrupt)):
        return "interrupted; nothing was written"
    if isinstance(error, TyperException):  # wrong usage
        message = error.format_message().rstrip(".")
        return f"{message}. See detq --help." if message else ""
    if isinstance(error, OSError) and error.strerror:  # the disk is full, a file is gone
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return f"{where}{error.strerror}"
    return crash_line(error)


def _size(text: str | None) -> int | tuple[int, int] | None:
    """``640`` or ``384x640`` (height first)."""
    if text is None:
        return None
    try:
        sides = [int(side) for side in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise ConfigError(f"--imgsz {text}: expected a side in pixels, or HxW such as 384x640")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _doubts(graphs: dict[Path, DetectorGraph], dataset: DatasetConfig, split: str) -> list[str]:
    """Warn of models whose figures would mean nothing; the warnings."""
    from detq import api, console

    found = [
        doubt
        for model, graph in graphs.items()
        if (doubt := api.doubt(graph, data=dataset, split=split, model=model)) is not None
    ]
    for doubt in found:
        console.warn(doubt)
    return found


def _tell_found(model: Path, graph: DetectorGraph) -> None:
    """What was read out of an ONNX file, which says little by itself."""
    from detq import console

    if model.suffix == ".onnx":
        spec = graph.spec
        console.note(
            f"{model}: layout {spec.family}, {spec.class_count} classes, "
            f"{len(spec.reparameterized)} re-parameterized convolutions found"
        )


def _dataset(data: Path, report: Progress) -> DatasetConfig:
    """The data set, with what its reader has to say about it on stderr."""
    from detq import api, console

    dataset = api.load_dataset(data, progress=report)
    for line in dataset.notes:
        console.note(line)
    return dataset


def _evaluate(
    label: str,
    graph: DetectorGraph,
    dataset: DatasetConfig,
    split: str,
    preset: str | None,
    progress: Progress,
) -> EvalResult:
    """Its scores, under the name given."""
    from detq import api

    result = api.evaluate(graph, data=dataset, split=split, preset=preset, progress=progress)
    return replace(result, model=label)
