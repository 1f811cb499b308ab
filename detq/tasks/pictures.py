"""Images with their boxes drawn in, as files beside nothing of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from detq.data.images import list_images, read_images, write_image
from detq.errors import DataError
from detq.progress import Progress
from detq.records import Prediction
from detq.report.draw import draw_detections
from detq.runtime.detector import Detector
from detq.runtime.pipeline import detect_stream


def plan_pictures(source: Path, directory: Path) -> dict[Path, Path]:
    """Each image of a file or folder -> its picture, of the same name, below ``directory``.

    Raises DataError if there is none, or if a picture would replace an image.
    """
    paths = _images_outside(source, directory)
    base = source if source.is_dir() else source.parent
    originals = {path.resolve() for path in paths}
    planned = {path: directory / path.relative_to(base) for path in paths}
    for picture in planned.values():
        if picture.resolve() in originals:
            raise DataError(f"{picture}: is an image of {source}; pass another --output")
    return planned


def draw_pictures(
    detector: Detector, planned: Mapping[Path, Path], progress: Progress
) -> list[Prediction]:
    """Detect in every image and write its picture. Raises DataError for a damaged image."""
    predictions: list[Prediction] = []
    names = detector.spec.class_names
    frames = detect_stream(detector, read_images(list(planned)))
    for (path, picture), frame in zip(planned.items(), frames, strict=True):
        write_image(picture, draw_detections(frame.image, frame.detections, names))
        predictions.append(Prediction(str(path), frame.detections.named(names)))
        progress("detecting", len(predictions), len(planned))
    return predictions


def _images_outside(source: Path, directory: Path) -> Sequence[Path]:
    """The images of ``source`` without an earlier run's pictures in a folder inside it."""
    paths, pictures = list_images(source), directory.resolve()
    if source.resolve() not in pictures.parents:
        return paths
    outside = [path for path in paths if pictures not in path.resolve().parents]
    if not outside:
        raise DataError(f"{source}: no images but the pictures in {directory}")
    return outside
