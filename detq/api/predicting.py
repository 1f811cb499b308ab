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
from detq.data.frames import Cut
from detq.data.sources import find_entries, pyarrow_parquet
from detq.errors import ConfigError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.digest import digest
from detq.progress import Progress, silent
from detq.runtime.options import RuntimeOptions
from detq.runtime.postprocess import PREDICTION
from detq.scale.cluster import Cluster
from detq.scale.engines import Engine, Local, OnRay, Run
from detq.scale.exports import coco_ids, write_coco, write_csv, write_yolo
from detq.scale.manifest import Manifest, plan, shards_listed, shards_to_do
from detq.scale.pictures import below, check_places
from detq.scale.rows import Origin, Row, read_rows
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

    ``is_complete`` is False while shards are left to other processes.
    """

    directory: Path
    manifest: Manifest
    frames: int
    errors: int
    objects: int
    seconds: float
    shards_before: int

    @property
    def is_complete(self) -> bool:
        """True if every shard is done."""
        return all(part.exists() for part in self.manifest.parts(self.directory))

    def rows(self) -> Iterator[Row]:
        """Every row that there is, one at a time: also of shards that were done before."""
        there = (part for part in self.manifest.parts(self.directory) if part.exists())
        return read_rows(there)


def predict_many(
    model: ModelSource,
    sources: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    format: ResultFormat = "jsonl",
    draw: bool = False,
    track: bool = False,
    cut: Cut | None = None,
    classes: Collection[str] = (),
    confidence: float = PREDICTION.confidence,
    iou: float = PREDICTION.iou or 0.0,
    imgsz: ImageSize | None = None,
    rect: bool | None = None,
    annotations: Path | None = None,
    engine: Engine = "local",
    shard: tuple[int, int] = (0, 1),
    shard_images: int = SHARD_IMAGES,
    workers: int | None = None,
    threads: int | None = None,
    address: str | None = None,
    tuned: str | Path | None = None,
    progress: Progress | None = None,
) -> PredictionRun:
    """Find objects in images, folders, patterns, lists, archives, videos, cameras and streams.

    Rows go to files in ``output``, one for at most ``shard_images`` images, as JSON Lines or
    Parquet; ``coco``, ``yolo`` and ``csv`` are made from JSON Lines when all are done. A run that
    was stopped goes on where it was; what cannot be read becomes a row that says why. ``draw``
    writes pictures too. ``track`` gives objects of videos and live sources ids that stay, and boxes
    also in the frames that ``cut.every`` leaves out. ``cut`` is which frames are read, of a source
    that lists images the first ``most``. Only objects of ``classes`` are kept, if any are named.
    ``rect`` as for :func:`detq.detector`, None: for videos and live sources.

    ``tuned`` is the exported directory that a graph was read from, whose options suit this machine.
    ``shard`` (i, n) does every n-th shard alone, for n processes that share ``output``. ``engine``
    ``ray`` does them on a cluster: the one at ``address``, or one of this machine. Raises a
    DetqError for bad input, and if ``output`` holds another run.
    """
    started_s = time.monotonic()
    names = [str(each) for each in ([sources] if isinstance(sources, str | Path) else sources)]
    graph, directory = open_graph(model, imgsz), Path(output)
    cut = cut or Cut()
    _check(graph, confidence, iou, format, draw or track, shard, names)
    job = Job(
        directory,
        Origin(graph.spec.name, digest(graph.model), graph.spec.class_names, confidence, iou),
        "parquet" if format == "parquet" else "jsonl",
        cut,
        rect,
        _class_ids(graph, classes),
        draw,
        track,
    )
    if track:
        Tracks(confidence=confidence, frames_per_s=1.0)  # raises without its library
    if format == "parquet":
        pyarrow_parquet(str(directory))  # raises without it
    runs: Run = (
        OnRay(Cluster(address, workers, threads or 1))
        if engine == "ray"
        else Local(RuntimeOptions(threads=threads) if threads else tuned_options(tuned or model))
    )
    entries = find_entries(names, size=shard_images, most=cut.most, without=directory)
    first = next(entries)
    if draw:
        check_places(directory, first)
    manifest = plan(
        directory,
        model=job.origin.sha256,
        options=_options(job, shard_images),
        sources=names,
        entries=chain([first], entries),
        trusted=shard[1] > 1,
    )
    to_do = list(shards_to_do(directory, manifest, first=shard[0], step=shard[1]))
    before = len(range(shard[0], manifest.shards, shard[1])) - len(to_do)
    frames = errors = objects = 0
    tell = partial(progress or silent, "predicting")
    images = [each.images for each in to_do]
    total = sum(images) if all(images) else 0
    for outcome in runs(graph, job, iter(to_do), tell, total):
        frames += outcome.frames
        errors += outcome.errors
        objects += outcome.objects
    seconds = time.monotonic() - started_s
    run = PredictionRun(directory, manifest, frames, errors, objects, seconds, before)
    if run.is_complete:
        _export(run, format, annotations, graph)
    return run


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
    confidence: float,
    iou: float,
    format_: ResultFormat,
    draws: bool,
    shard: tuple[int, int],
    names: Sequence[str],
) -> None:
    replace(PREDICTION, confidence=confidence, iou=iou)  # raises for what is out of range
    if not names:
        raise ConfigError("predict: no source; name an image, a folder, a video or a camera")
    if not 0 <= shard[0] < shard[1]:
        raise ConfigError(f"--shard {shard[0]}/{shard[1]}: expected I/N with 0 <= I < N")
    if not strategy_of(graph.spec).FINDS_BOXES and (draws or format_ in ("coco", "yolo")):
        raise ConfigError(
            f"{graph.spec.name}: a classifier finds no boxes; leave out --draw and --track, and "
            "use --format jsonl, parquet or csv"
        )


def _class_ids(graph: DetectorGraph, classes: Collection[str]) -> frozenset[int] | None:
    known = graph.spec.class_names
    for name in classes:
        if name not in known:
            raise ConfigError(f"--classes {name}: is none of {', '.join(known)}")
    return frozenset(known.index(name) for name in classes) or None


def _options(job: Job, shard_images: int) -> dict[str, Any]:
    """What a run of the same name must share."""
    kept = job.class_ids
    return {
        "rows": job.rows,
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


def _export(
    run: PredictionRun, format_: ResultFormat, annotations: Path | None, graph: DetectorGraph
) -> None:
    if format_ == "coco":
        ids = coco_ids(annotations, graph.spec.class_names)
        write_coco(run.directory / "predictions.json", run.rows(), ids)
    elif format_ == "csv":
        write_csv(run.directory / "predictions.csv", run.rows())
    elif format_ == "yolo":
        write_yolo(run.directory / "labels", _placed(run))


def _placed(run: PredictionRun) -> Iterator[tuple[Row, PurePosixPath]]:
    """Each row with the place of its label file."""
    listed = shards_listed(run.directory)
    for entry, part in zip(listed, run.manifest.parts(run.directory), strict=True):
        for row in read_rows([part]):
            name = below(row["id"], entry.base)
            if entry.kind in FILMED:  # video.mp4#12
                yield row, name.with_name(f"{name.name.replace('#', '_')}.txt")
            else:
                yield row, name.with_suffix(".txt")
