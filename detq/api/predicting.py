"""A model on any number of images, from any source, to rows that other programs read."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from detq.api.running import tuned_options
from detq.api.sources import ImageSize, ModelSource, open_graph
from detq.data.frames import WHOLE, Cut
from detq.data.sources import find_entries, pyarrow_parquet
from detq.errors import ConfigError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.digest import digest
from detq.progress import Progress, silent
from detq.runtime.options import RuntimeOptions
from detq.runtime.postprocess import PREDICTION
from detq.scale.cluster import Cluster, beside_others, check_device
from detq.scale.engines import Engine, Local, OnRay, Run
from detq.scale.exports import CocoIds, coco_ids, write_coco, write_csv, write_yolo
from detq.scale.manifest import Manifest, plan, shards_listed, shards_to_do
from detq.scale.pictures import below, check_places
from detq.scale.rows import Origin, Row, RowFormat, read_rows
from detq.scale.tracking import Tracks
from detq.scale.work import FILMED, Job
from detq.tasks import strategy_of

ResultFormat = Literal["jsonl", "parquet", "coco", "yolo", "csv"]
LOOKED_AT = 64
"""Images of a run that found nothing that are looked at again."""
SHARD_IMAGES = 1000
"""Images that are done again at most if a run is killed."""


@dataclass(frozen=True)
class PredictionRun:
    """What a run has done: its ``frames`` and ``objects`` of this time, those of them that could
    not be read (``errors``), and the shards that were done before.

    ``is_complete`` is False if shards were left to other processes, and were not there yet.
    """

    directory: Path
    manifest: Manifest
    frames: int
    errors: int
    objects: int
    seconds: float
    shards_before: int
    is_complete: bool

    def rows(self) -> Iterator[Row]:
        """Every row that there is, one at a time: also of shards that were done before."""
        there = (part for part in self.manifest.parts(self.directory) if part.exists())
        return read_rows(there)


@dataclass(frozen=True)
class Workers:
    """Who does a run. ``engine`` ``ray``: a Ray cluster, the one at ``address``, or one of this
    machine, with so many ``workers`` of so many ``threads`` each.

    ``shard`` (i, n) does every n-th shard alone, of ``shard_images`` images each, for n processes
    that share a directory.
    """

    engine: Engine = "local"
    shard: tuple[int, int] = (0, 1)
    shard_images: int = SHARD_IMAGES
    workers: int | None = None
    threads: int | None = None
    device: str = "CPU"
    address: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.shard[0] < self.shard[1]:
            raise ConfigError(
                f"--shard {self.shard[0]}/{self.shard[1]}: expected I/N with 0 <= I < N"
            )
        if self.engine == "local" and (self.workers or self.address):
            raise ConfigError("--workers, --address: are for --engine ray; leave them out")

    def run(self, alone: RuntimeOptions | None) -> Run:
        """With the options of this process, had it the machine to itself.

        Raises ConfigError without Ray or its cluster.
        """
        if self.engine == "ray":
            check_device(self.device)
            cluster = Cluster(self.address, self.workers, self.threads or 1)
            return OnRay(cluster, alone)
        if self.device != "CPU":
            return Local(RuntimeOptions(device=self.device, threads=self.threads))
        return Local(beside_others(self.threads, alone) if self.threads else alone)


ALONE = Workers()


def predict_many(
    model: ModelSource,
    sources: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    format: ResultFormat = "jsonl",
    draw: bool = False,
    track: bool = False,
    cut: Cut = WHOLE,
    classes: Collection[str] | None = None,
    confidence: float = PREDICTION.confidence,
    iou: float = PREDICTION.iou or 0.0,
    imgsz: ImageSize | None = None,
    rect: bool | None = None,
    annotations: Path | None = None,
    workers: Workers = ALONE,
    options: RuntimeOptions | None = None,
    progress: Progress | None = None,
) -> PredictionRun:
    """Find objects in images, folders, patterns, lists, archives, videos, cameras and streams.

    Rows go to files in ``output`` as JSON Lines or Parquet; ``coco`` (with the ids of
    ``annotations``), ``yolo`` and ``csv`` are made when all are done. A run that was stopped goes
    on where it was; what cannot be read becomes a row that says why. ``draw`` writes pictures too.
    ``track`` gives objects of videos and live sources ids that stay, and boxes also in the frames
    that ``cut.every`` leaves out. ``cut`` is which frames are read, of a source that lists images
    the first ``most``. Only ``classes`` are kept, if any are named. ``rect`` as for
    :func:`detq.detector`, None: for videos and live sources. ``options`` are those of a process
    that has the CPU to itself, by default what :func:`detq.tune` found best for a directory;
    whoever does the work computes in their float precision.

    Raises a DetqError for bad input, and if ``output`` holds another run.
    """
    started_s = time.monotonic()
    names = [str(each) for each in ([sources] if isinstance(sources, str | Path) else sources)]
    graph, directory = open_graph(model, imgsz), Path(output)
    origin = Origin(graph.spec.name, digest(graph.model), graph.spec.class_names, confidence, iou)
    rows: RowFormat = "parquet" if format == "parquet" else "jsonl"
    job = Job(directory, origin, rows, cut, rect, _class_ids(graph, classes), draw, track)
    _check(graph, job, format, names, annotations)
    run_shards = workers.run(options or tuned_options(model))
    ids = coco_ids(annotations, graph.spec.class_names)
    manifest = _planned(job, names, workers, ids)
    first, step = workers.shard
    to_do = list(shards_to_do(directory, manifest, first=first, step=step))
    before = len(range(first, manifest.shards, step)) - len(to_do)
    images = [each.images for each in to_do]
    tell = partial(progress or silent, "predicting")
    frames = errors = objects = 0
    for outcome in run_shards(graph, job, iter(to_do), tell, sum(images) if all(images) else 0):
        frames += outcome.frames
        errors += outcome.errors
        objects += outcome.objects
    seconds = time.monotonic() - started_s
    complete = all(part.exists() for part in manifest.parts(directory))
    run = PredictionRun(directory, manifest, frames, errors, objects, seconds, before, complete)
    if run.is_complete:
        _export(run, format, ids)
    return run


def _planned(job: Job, names: Sequence[str], workers: Workers, ids: CocoIds) -> Manifest:
    """What is to be done, after a look at its first shard."""
    most, directory = job.cut.most, job.directory
    entries = find_entries(names, size=workers.shard_images, most=most, without=directory)
    if len(names) > 1:  # pictures and labels of several sources lie below their whole names
        entries = (replace(entry, base="") for entry in entries)
    first = next(entries)
    known, kept = job.origin.class_names, job.class_ids
    ids.check(first, known if kept is None else [known[class_id] for class_id in kept])
    if job.draw:
        check_places(directory, first)
    return plan(
        directory,
        model=job.origin.sha256,
        options=_options(job, workers.shard_images),
        sources=names,
        entries=chain([first], entries),
        trusted=workers.shard[1] > 1,
    )


def predictions_doubt(graph: DetectorGraph, run: PredictionRun) -> str | None:
    """Why a model that found nothing in a run may be read wrongly, in one line, if it may."""
    if run.objects or not run.frames:
        return None
    first = next(shards_listed(run.directory))
    if first.kind != "images":
        return None
    return strategy_of(graph.spec).blind(graph, [Path(name) for name in first.names[:LOOKED_AT]])


def _check(
    graph: DetectorGraph,
    job: Job,
    format_: ResultFormat,
    names: Sequence[str],
    annotations: Path | None,
) -> None:
    # Each of these raises for what is out of range, or without its library.
    replace(PREDICTION, confidence=job.origin.confidence, iou=job.origin.iou)
    if job.track:
        Tracks(confidence=job.origin.confidence, frames_per_s=1.0)
    if format_ == "parquet":
        pyarrow_parquet("--format parquet")
    if not names or not all(name.strip() for name in names):
        raise ConfigError("predict: a source without a name; name an image, a folder or a video")
    if annotations is not None and format_ != "coco":
        raise ConfigError("--annotations: is for --format coco; leave it out")
    needs_boxes = job.draw or job.track or format_ in ("coco", "yolo")
    if needs_boxes and not strategy_of(graph.spec).FINDS_BOXES:
        raise ConfigError(
            f"{graph.spec.name}: a classifier finds no boxes; leave out --draw and --track, and "
            "use --format jsonl, parquet or csv"
        )


def _class_ids(graph: DetectorGraph, classes: Collection[str] | None) -> frozenset[int] | None:
    known = graph.spec.class_names
    if classes is None:
        return None
    for name in classes:
        if name not in known:
            raise ConfigError(f"--classes {name}: is none of {', '.join(known)}; pass one of them")
    return frozenset(index for index, name in enumerate(known) if name in set(classes))


def _options(job: Job, shard_images: int) -> dict[str, Any]:
    """What a run of the same name must share."""
    kept = job.class_ids
    return {
        "format": job.rows,
        "confidence": job.origin.confidence,
        "iou": job.origin.iou,
        "classes": None if kept is None else sorted(kept),
        "every": job.cut.every,
        "start": job.cut.start_s,
        "end": job.cut.end_s,
        "max-images": job.cut.most,
        "rect": job.rect,
        "draw": job.draw,
        "track": job.track,
        "shard-images": shard_images,
    }


def _export(run: PredictionRun, format_: ResultFormat, ids: CocoIds) -> None:
    if format_ == "coco":
        write_coco(run.directory / "predictions.json", run.rows(), ids)
    elif format_ == "csv":
        write_csv(run.directory / "predictions.csv", run.rows())
    elif format_ == "yolo":
        write_yolo(run.directory / "labels", _placed(run))


def _placed(run: PredictionRun) -> Iterator[tuple[Row, PurePosixPath]]:
    """Each row with the place of its label file: where ``a.jpg`` has ``a.txt``, ``a.png`` has
    ``a.png.txt``, and frame 12 of ``film.mp4`` has ``film.mp4_12.txt``.
    """
    taken: set[int] = set()
    listed = shards_listed(run.directory)
    for entry, part in zip(listed, run.manifest.parts(run.directory), strict=True):
        for row in read_rows([part]):
            name = below(row["id"], entry.base)
            whole = name.with_name(f"{name.name.replace('#', '_')}.txt")
            short = whole if entry.kind in FILMED else name.with_suffix(".txt")
            place = whole if hash(short) in taken else short
            taken.add(hash(place))
            yield row, place
