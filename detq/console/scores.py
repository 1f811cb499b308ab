"""What models find, how well, and what of the images that rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from detq.console.numbers import difference, number
from detq.console.terminal import note, stdout
from detq.records import Classified, DataCounts, EvalResult, Prediction
from detq.report.words import Metric

_LEFT_OUT = {
    "damaged_images": "damaged images left out",
    "mislabelled_images": "images left out for labels beyond 0..1",
    "unlisted_images": "images left out that the annotations do not list",
    "repeated_images": "images named twice",
    "skipped_folders": "links to a folder that was read already",
    "other_images": "images left out whose format is not read",
    "labels_without_image": "label files without an image",
    "duplicate_rows": "duplicate label rows dropped",
    "images_without_objects": "images without objects",
    "ignored_objects": "objects ignored (crowds, difficult)",
    "objects_without_area": "objects without area, which nothing can find",
}


def print_scores(results: Sequence[EvalResult], columns: Sequence[Metric]) -> None:
    """One row per model; with several also the difference to the first."""
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    headings = [heading for heading, _ in columns]
    for heading in (*headings, "vs first", "images", "precision", "MB"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            escape(result.model),
            *(number(result.scores[key]) for _, key in columns),
            difference(result.score, results[0].score),
            str(result.images),
            result.precision,
            f"{result.size_mb:.1f}",
        )
    stdout.print(table)


def scores_document(
    rows: Sequence[EvalResult], split: str, *, per_class: bool = False
) -> dict[str, Any]:
    """The rows of a table of scores, with what is known of each class if it is wanted, and what of
    the split they rest on.
    """
    models = [row.to_dict() for row in rows]
    for model, row in zip(models, rows, strict=True):
        if per_class:
            model.update(row.details())
    counts = [model.pop("data") for model in models]
    return {"models": models, "data": {"split": split, **counts[0]} if counts else {}}


def note_left_out(split: str, counts: DataCounts) -> None:
    """One line on what of a split was left out, or counts in another way; none if there is nothing.

    What is written to ``--json`` has the same numbers.
    """
    said = [
        f"{number} {words}" for key, words in _LEFT_OUT.items() if (number := getattr(counts, key))
    ]
    if counts.damaged_files:
        names = ", ".join(counts.damaged_files[:3])
        said[0] += f" ({names}{', …' if len(counts.damaged_files) > 3 else ''})"
    if said:
        note(f"split {split}, {counts.images} images: {', '.join(said)}")


def print_predictions(images: Sequence[Prediction] | Sequence[Classified]) -> None:
    """One line per image: what was found in it."""
    for image in images:
        stdout.print(f"{image.file}: {image.summary}", markup=False, highlight=False)
