"""What a model found: a line per image while they are few, else how much of it there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import typer

from detq.api.predicting import PredictionRun, predictions_doubt
from detq.console.files import SCHEMA
from detq.console.terminal import Manner, note, stdout, warn
from detq.data.images import is_image
from detq.errors import ConfigError, DataError, DetqError
from detq.graph.detector_graph import DetectorGraph
from detq.records import Classified, NamedClass, NamedDetection, Prediction
from detq.scale.exports import write_document
from detq.scale.manifest import MADE, MANIFEST, SHARDS
from detq.scale.rows import Row
from detq.tasks import strategy_of

MOST_LINES = 200


def show(graph: DetectorGraph, run: PredictionRun, json_file: Path | None) -> None:
    """Write ``--json``, say what may be wrong, and what was found.

    Raises ArtifactError, DataError if nothing could be read.
    """
    finds_boxes = strategy_of(graph.spec).FINDS_BOXES
    write_images(json_file, run, finds_boxes=finds_boxes)
    doubt = predictions_doubt(graph, run)
    if doubt is not None:
        warn(doubt)
    print_run(run, finds_boxes=finds_boxes)


def print_run(run: PredictionRun, *, finds_boxes: bool) -> None:
    """What was found, then on stderr how long it took and where it is; nothing if it is quiet."""
    few = [] if Manner.is_quiet else list(islice(run.rows(), MOST_LINES + 1))
    if len(few) <= MOST_LINES:
        for row in few:
            said = _summary(row, finds_boxes)
            line = said if said.startswith(row["id"]) else f"{row['id']}: {said}"
            stdout.print(line, markup=False, highlight=False)
    rate = run.frames / run.seconds if run.seconds else 0.0
    said = f"{run.frames} images in {run.seconds:.1f} s, {rate:.1f} per second, {run.objects} found"
    if run.errors:
        said += f"; {run.errors} could not be read: their rows say why"
    if run.shards_before:
        said += f"; {run.shards_before} of {run.manifest.shards} shards were done before"
    note(said)
    left = "" if run.is_complete else "; other shards are left to do"
    made = ", ".join(name for name in MADE if (run.directory / name).exists())
    note(f"rows in {run.directory}{left}{f'; made of them: {made}' if made else ''}")
    if run.errors and run.errors == run.frames:
        raise DataError(f"nothing could be read; the rows in {run.directory} say why")


def check_place(path: Path | None, output: Path) -> None:
    """Raise ConfigError for a ``--json`` that would replace an image, or a file of the run."""
    if path is None:
        return
    own = path.name in (MANIFEST, SHARDS) or path.name.startswith("predictions-")
    if (own and path.resolve().parent == output.resolve()) or (is_image(path) and path.exists()):
        raise ConfigError(f"--json {path}: is an image or a file of the run; pass another path")


@contextmanager
def going_on(output: Path) -> Iterator[None]:
    """Ctrl-C says that nothing is lost."""
    try:
        yield
    except (KeyboardInterrupt, typer.Abort):
        done = len(list(output.glob("predictions-*-of-*")))
        if not done and not (output / MANIFEST).exists():
            raise
        raise DetqError(
            f"interrupted; {done} shards are done in {output}: the same command goes on"
        ) from None


def write_images(path: Path | None, run: PredictionRun, *, finds_boxes: bool) -> None:
    """``--json``. Raises ArtifactError."""
    if path is not None and not run.is_complete:
        note(f"{path}: is written when all shards are done")
    elif path is not None:
        write_document(path, {"schema": SCHEMA}, _documents(run, finds_boxes))


def _documents(run: PredictionRun, finds_boxes: bool) -> Iterator[dict[str, Any]]:
    for row in run.rows():
        error = {} if row["error"] is None else {"error": row["error"]}
        yield asdict(_found(row, finds_boxes)) | error


def _summary(row: Row, finds_boxes: bool) -> str:
    return str(row["error"] or _found(row, finds_boxes).summary)


def _found(row: Row, finds_boxes: bool) -> Prediction | Classified:
    if finds_boxes:
        boxes = zip(row["class_names"], row["scores"], row["boxes"], strict=True)
        return Prediction(row["id"], tuple(NamedDetection(*each) for each in boxes))
    classes = zip(row["class_names"], row["scores"], strict=True)
    return Classified(row["id"], tuple(NamedClass(*each) for each in classes))
