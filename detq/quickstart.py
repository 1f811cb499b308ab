"""The whole job on what detq brings along: its digits model, and scenes that it draws itself.

Quantizes, measures mAP and latency of float, plain INT8 and detq's INT8, writes the exported
directory with its report, and draws what the INT8 model finds.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from detq import api
from detq.data.digits import DEFAULT_IMAGES, write_digits
from detq.data.images import list_images
from detq.errors import DataError
from detq.progress import Progress
from detq.records import Prediction

MODEL = "digits_yolov6n"
RECIPES = ("minmax", "cfws_kl")
"""Plain INT8, and the paper's: seconds, where the default recipe searches for minutes."""
CALIBRATION_SPLIT, TEST_SPLIT = "val", "test"
SAMPLES = 8
BENCH_ROUNDS = 100


@dataclass(frozen=True)
class Quickstart:
    """All that a quickstart measured, and where it wrote what it made."""

    comparison: api.Comparison
    predictions: tuple[Prediction, ...]
    model: Path
    report: Path
    pictures: Path


def quickstart(
    folder: Path, *, images: int | None = None, device: str = "CPU", progress: Progress
) -> Quickstart:
    """Run it in ``folder``; scenes of an earlier run there are used again.

    ``images`` test scenes are judged, by default those of :data:`DEFAULT_IMAGES`. Raises a
    DetqError if the folder cannot be written.
    """
    _check_own(folder)
    data = _draw_data(folder / "digits", images, progress)
    comparison = api.compare(
        MODEL,
        RECIPES,
        data=data,
        split=TEST_SPLIT,
        calibration_split=CALIBRATION_SPLIT,
        rounds=BENCH_ROUNDS,
        device=device,
        progress=progress,
    )
    directory = folder / f"{MODEL}_int8_openvino_model"
    comparison.save(directory)
    predictions = _draw_samples(directory, folder, data, progress)
    return Quickstart(
        comparison=comparison,
        predictions=tuple(predictions),
        model=directory,
        report=directory / "report.html",
        pictures=folder / "pictures",
    )


def _check_own(folder: Path) -> None:
    """Raise DataError for a folder with something else in it, which could get lost."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "digits").is_dir():
        raise DataError(f"{folder}: holds other files than a quickstart's; pass another --output")


def _draw_data(folder: Path, images: int | None, progress: Progress) -> Path:
    """Calibration and test scenes; the path of the data set's YAML."""
    counts = {CALIBRATION_SPLIT: None, TEST_SPLIT: images}
    for split, count in counts.items():
        wanted = DEFAULT_IMAGES[split] if count is None else count
        drawn = folder / "images" / split
        if drawn.is_dir() and len(list_images(drawn)) == wanted:
            continue
        for part in (drawn, folder / "labels" / split):
            shutil.rmtree(part, ignore_errors=True)
        report = partial(progress, f"drawing {split} scenes")
        write_digits(folder, split=split, images=wanted, progress=report)
    return folder / "data.yaml"


def _draw_samples(model: Path, folder: Path, data: Path, progress: Progress) -> list[Prediction]:
    """What the exported model finds in some test scenes, and in a photograph of a written page."""
    samples = folder / "samples"
    shutil.rmtree(samples, ignore_errors=True)
    samples.mkdir(parents=True)
    scenes = list_images(data.parent / "images" / TEST_SPLIT)[:SAMPLES]
    for scene in scenes:
        shutil.copy(scene, samples / scene.name)
    shutil.copy(api.HANDWRITING, samples / api.HANDWRITING.name)
    return api.predict(model, samples, output=folder / "pictures", progress=progress)
