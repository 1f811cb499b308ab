"""What a model found: a line per image while they are few, else how much of it there is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from detq.api.predicting import PredictionRun
from detq.console.files import SCHEMA
from detq.console.terminal import note, stdout
from detq.records import Classified, NamedClass, NamedDetection, Prediction
from detq.scale.exports import write_document
from detq.scale.rows import Row

MOST_LINES = 200


def print_run(run: PredictionRun, *, finds_boxes: bool) -> None:
    """What was found, then on stderr how long it took and where it is."""
    few = list(islice(run.rows(), MOST_LINES + 1))
    if len(few) <= MOST_LINES:
        for row in few:
            line = f"{row['id']}: {_summary(row, finds_boxes)}"
            stdout.print(line, markup=False, highlight=False)
    rate = run.frames / run.seconds if run.seconds else 0.0
    said = f"{run.frames} images in {run.seconds:.1f} s, {rate:.1f} per second, {run.objects} found"
    if run.errors:
        said += f"; {run.errors} could not be read: their rows say why"
    if run.shards_before:
        said += f"; {run.shards_before} of {run.manifest.shards} shards were done before"
    note(said)
    left = "" if run.is_complete else "; other shards are left to do"
    note(f"rows in {run.directory}{left}")


def write_images(path: Path | None, run: PredictionRun, *, finds_boxes: bool) -> None:
    """``--json``. Raises ArtifactError."""
    if path is not None:
        write_document(path, {"schema": SCHEMA}, _documents(run, finds_boxes))


def _documents(run: PredictionRun, finds_boxes: bool) -> Iterator[dict[str, Any]]:
    for row in run.rows():
        named = zip(row["class_names"], row["scores"], strict=True)
        document: dict[str, Any] = {"file": row["id"]}
        if finds_boxes:
            document["detections"] = [
                {"label": label, "score": score, "box_xyxy_px": box}
                for (label, score), box in zip(named, row["boxes"], strict=True)
            ]
        else:
            document["classes"] = [{"label": label, "score": score} for label, score in named]
        if row["error"] is not None:
            document["error"] = row["error"]
        yield document


def _summary(row: Row, finds_boxes: bool) -> str:
    if row["error"] is not None:
        return str(row["error"])
    named = list(zip(row["class_names"], row["scores"], strict=True))
    if not finds_boxes:
        return Classified("", tuple(NamedClass(*each) for each in named)).summary
    boxes = ((0.0, 0.0, 0.0, 0.0) for _ in named)
    found = (NamedDetection(*each, box) for each, box in zip(named, boxes, strict=True))
    return Prediction("", tuple(found)).summary
