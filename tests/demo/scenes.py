"""Pictures for the demo's tests, whose digits are known because detq drew them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from detq.data import digits

MODEL = "digits_yolov6n"
SCENE = 14  # of the test split: eleven digits on a page, all of which the model finds
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Known:
    """A picture of 640 x 480, and what is in it: class names and boxes in 0..1 of its sides."""

    image: Image
    truth: tuple[tuple[str, tuple[float, ...]], ...]

    def missed(self, found: Iterable[tuple[str, Sequence[float]]]) -> list[str]:
        """What was not found at its place, or was found and is not there."""
        rest = list(found)
        wrong = []
        for name, box in self.truth:
            hit = next((f for f in rest if f[0] == name and overlap(box, f[1]) > 0.6), None)
            if hit is None:
                wrong.append(f"{name} missing")
            else:
                rest.remove(hit)
        return wrong + [f"{name} is not there" for name, _ in rest]


def known_scene() -> Known:
    scene = digits.make_scene(SCENE, "test", digits.sources("test"), seed=0, size_px=480)
    image = np.full((480, 640, 3), 90, np.uint8)
    image[:, 80:560] = scene.image
    truth = [
        (str(class_id), ((80 + x1) / 640, y1 / 480, (80 + x2) / 640, y2 / 480))
        for class_id, (x1, y1, x2, y2) in scene.objects
    ]
    return Known(image, tuple(truth))


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes of corners."""
    sides = [min(first[i + 2], second[i + 2]) - max(first[i], second[i]) for i in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


def jpeg(image: Image, *options: int) -> bytes:
    return cv2.imencode(".jpg", image, list(options))[1].tobytes()


def write_clip(path: Path, images: Iterable[Image], frames_per_s: float = 25) -> Path:
    writer: cv2.VideoWriter | None = None
    for image in images:
        if writer is None:
            codec = cv2.VideoWriter.fourcc(*"MJPG")
            writer = cv2.VideoWriter(str(path), codec, frames_per_s, image.shape[1::-1])
        writer.write(image)
    assert writer is not None
    writer.release()
    return path
