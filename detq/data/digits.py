"""A detection data set that detq makes itself: handwritten digits in drawn scenes.

Images, COCO JSON, YOLO label files and ``data.yaml`` on disk. The same seed gives the same bytes
with the same versions of numpy, OpenCV and scikit-learn, and image ``i`` of a split does not depend
on how many are made. Handwriting and photographs are shared out among the splits: what the test
split shows was never trained or calibrated on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detq.data.dataset import SPLIT_NAMES
from detq.data.digit_scenes import CLASS_NAMES, Scan, Scene, draw_scene, to_scan
from detq.data.images import ImageBGR
from detq.errors import DataError
from detq.extras import require
from detq.files import scratch_folder
from detq.opencv import cv2
from detq.progress import Steps

SIZE_PX = 256
DEFAULT_IMAGES: Mapping[str, int] = {"train": 12000, "val": 300, "test": 500}
SHARES: Mapping[str, float] = {"train": 0.6, "val": 0.15, "test": 0.25}
"""Of the handwriting, and of the width of every photograph, per split."""
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Sources:
    """What the scenes of one split are made from."""

    scans: tuple[Scan, ...]
    photographs: tuple[ImageBGR, ...]


def write_digits(
    folder: Path,
    *,
    split: str,
    images: int | None = None,
    seed: int = 0,
    size_px: int = SIZE_PX,
    progress: Steps | None = None,
) -> Path:
    """Make one split in ``folder``, beside others that are there already; the path of its YAML.

    ``images`` defaults to :data:`DEFAULT_IMAGES`. Raises DataError if the split is already there,
    or if the folder cannot be written.
    """
    if split not in SPLIT_NAMES:
        raise DataError(f"split {split!r}: expected one of {', '.join(SPLIT_NAMES)}")
    if size_px < 64:
        raise DataError(f"scenes of {size_px} pixels are too small for digits; use 64 or more")
    if (folder / "images" / split).exists():
        raise DataError(f"{folder}: has a split {split!r} already; remove it or use another folder")
    count = DEFAULT_IMAGES[split] if images is None else images
    try:
        with scratch_folder(folder) as staging:
            _write_split(staging, split, count, seed, size_px, progress)
            for part in (f"images/{split}", f"labels/{split}", f"annotations/{split}.json"):
                (folder / part).parent.mkdir(exist_ok=True)
                (staging / part).rename(folder / part)
        return _write_yaml(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror})") from None


def sources(split: str) -> Sources:
    """The handwriting and the parts of photographs that belong to a split.

    Which scan belongs where does not depend on the seed of a data set: no two data sets can mix
    training and test handwriting.
    """
    require("drawing digits", "sklearn")
    from sklearn.datasets import load_digits, load_sample_images  # noqa: PLC0415 - takes seconds

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    chosen = order[_portion(split, len(order))]
    scans = tuple(to_scan(digits.images[i], int(digits.target[i])) for i in chosen)
    photographs = [np.ascontiguousarray(rgb[..., ::-1]) for rgb in load_sample_images().images]
    return Sources(scans, tuple(photo[:, _portion(split, photo.shape[1])] for photo in photographs))


def make_scene(index: int, split: str, sources: Sources, *, seed: int, size_px: int) -> Scene:
    """Scene number ``index`` of a split."""
    rng = np.random.default_rng([seed, SPLIT_NAMES.index(split), index])
    return draw_scene(rng, sources.scans, sources.photographs, size=size_px)


def _portion(split: str, length: int) -> slice:
    """The split's share of ``length`` things: train first, then val, then test."""
    names = list(SHARES)
    before = sum(SHARES[name] for name in names[: names.index(split)])
    return slice(round(before * length), round((before + SHARES[split]) * length))


def _write_split(
    folder: Path, split: str, count: int, seed: int, size_px: int, progress: Steps | None
) -> None:
    material = sources(split)
    for part in ("images", "labels"):
        (folder / part / split).mkdir(parents=True)
    (folder / "annotations").mkdir()
    scenes = []
    for index in range(count):
        scene = make_scene(index, split, material, seed=seed, size_px=size_px)
        name = f"{index:06}"
        _, encoded = cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        (folder / "images" / split / f"{name}.jpg").write_bytes(encoded.tobytes())
        (folder / "labels" / split / f"{name}.txt").write_text(
            _yolo_lines(scene, size_px), encoding="utf-8"
        )
        scenes.append(scene.objects)
        if progress is not None:
            progress(index + 1, count)
    document = _coco_document(scenes, size_px)
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(document), encoding="utf-8")


def _yolo_lines(scene: Scene, size_px: int) -> str:
    """``class cx cy w h`` per digit, relative to the image's size."""
    lines = []
    for class_id, (left, top, right, bottom) in scene.objects:
        numbers = (left + right, top + bottom, 2 * (right - left), 2 * (bottom - top))
        lines.append(f"{class_id} " + " ".join(f"{n / 2 / size_px:.6f}" for n in numbers) + "\n")
    return "".join(lines)


def _coco_document(
    scenes: Sequence[tuple[tuple[int, tuple[int, int, int, int]], ...]], size_px: int
) -> dict[str, Any]:
    objects = [
        (image_id, class_id, box)
        for image_id, scene in enumerate(scenes, start=1)
        for class_id, box in scene
    ]
    return {
        "images": [
            {"id": i + 1, "file_name": f"{i:06}.jpg", "width": size_px, "height": size_px}
            for i in range(len(scenes))
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASS_NAMES)],
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": class_id,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
            }
            for number, (image_id, class_id, (left, top, right, bottom)) in enumerate(
                objects, start=1
            )
        ],
    }


def _write_yaml(folder: Path) -> Path:
    """Describe the splits that are there."""
    present = [name for name in SPLIT_NAMES if (folder / "images" / name).is_dir()]
    document: dict[str, Any] = {"path": "."}
    document.update({name: f"images/{name}" for name in present})
    document["annotations"] = {name: f"annotations/{name}.json" for name in present}
    document["names"] = dict(enumerate(CLASS_NAMES))
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path
