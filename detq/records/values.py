"""Frozen values that travel between rooms; each checks itself when it is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from detq.errors import DetqError

Part = Literal["backbone", "neck", "head"]
SizeHW = tuple[int, int]
Fit = Literal["yolov6", "ultralytics", "corner", "corner-black", "stretch", "stretch-cubic"]
"""How an image is brought to the network's size (:data:`detq.data.letterbox.FITS`)."""


_PARTS: Mapping[str, Part] = {
    "backbone": "backbone",
    "neck": "neck",
    "detect": "head",
    "head": "head",
}


def part_of(name: str) -> Part | None:
    """The part of the network that an operation's module path names; None if it names none."""
    first, _, _ = name.lstrip("/").replace("/", ".").partition(".")
    return _PARTS.get(first)


@dataclass(frozen=True)
class ReparamConvolution:
    """A convolution that re-parameterization made of several parallel branches.

    ``name`` is the module path inside the float module (``backbone.ERBlock_2.1.conv1``).
    """

    name: str
    part: Part


def placeholder_names(count: int) -> tuple[str, ...]:
    """Names for the classes of a model file that stores none: ``class0``, ``class1``, …"""
    return tuple(f"class{index}" for index in range(count))


@dataclass(frozen=True)
class Detections:
    """Boxes found in one image, best score first.

    ``boxes_xyxy_px`` float32 [n, 4] in pixels of the original image, ``scores`` float32 [n] in
    0..1,
    ``class_ids`` int64 [n], indices into ``ModelSpec.class_names``.
    """

    boxes_xyxy_px: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.scores)
        expected = {"boxes_xyxy_px": (count, 4), "scores": (count,), "class_ids": (count,)}
        for name, shape in expected.items():
            actual = getattr(self, name).shape
            if actual != shape:
                raise DetqError(f"Detections.{name}: expected shape {shape}, got {actual}")

    def __len__(self) -> int:
        return len(self.scores)

    def columns(self) -> dict[str, list[Any]]:
        """The same as plain Python values by name: ``boxes`` are corners x1, y1, x2, y2."""
        return {
            "boxes": self.boxes_xyxy_px.tolist(),
            "scores": self.scores.tolist(),
            "class_ids": self.class_ids.tolist(),
        }

    def of_classes(self, class_ids: Collection[int]) -> Detections:
        """Those of some classes."""
        return self.at(np.flatnonzero(np.isin(self.class_ids, list(class_ids))))

    def at(self, rows: npt.ArrayLike) -> Detections:
        """Those at some places, in that order."""
        index = np.asarray(rows, np.int64)
        return Detections(self.boxes_xyxy_px[index], self.scores[index], self.class_ids[index])

    def named(self, class_names: Sequence[str]) -> tuple[NamedDetection, ...]:
        """The same detections with class names, as plain Python values."""
        rows = zip(
            self.class_ids.tolist(), self.scores.tolist(), self.boxes_xyxy_px.tolist(), strict=True
        )
        return tuple(NamedDetection(class_names[i], score, tuple(box)) for i, score, box in rows)


@dataclass(frozen=True)
class NamedDetection:
    """One detection in words: class name, score 0..1, corners in pixels of the original image."""

    label: str
    score: float
    box_xyxy_px: tuple[float, float, float, float]


@dataclass(frozen=True)
class Prediction:
    """What a model found in one image file, best score first."""

    file: str
    detections: tuple[NamedDetection, ...]

    @property
    def summary(self) -> str:
        """How many objects of which class: ``2 cat, 1 dog``."""
        counts = Counter(detection.label for detection in self.detections)
        found = ", ".join(f"{count} {label}" for label, count in counts.most_common())
        return found or "nothing found"


@dataclass(frozen=True)
class Ranking:
    """The classes that suit an image best, best first, at most five.

    ``class_ids`` int64 [n], indices into ``ModelSpec.class_names``; ``scores`` float32 [n], 0..1.
    """

    class_ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.class_ids.shape != self.scores.shape or self.scores.ndim != 1 or not len(self):
            raise DetqError(
                f"Ranking: expected class_ids and scores of one shape [n], got "
                f"{self.class_ids.shape} and {self.scores.shape}"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def columns(self) -> dict[str, list[Any]]:
        """The same as plain Python values by name."""
        return {"scores": self.scores.tolist(), "class_ids": self.class_ids.tolist()}

    def of_classes(self, class_ids: Collection[int]) -> Ranking:
        """All of it: the best classes are what they are, whichever somebody looks for."""
        return self

    def named(self, class_names: Sequence[str]) -> tuple[NamedClass, ...]:
        """The same ranking with class names, as plain Python values."""
        rows = zip(self.class_ids.tolist(), self.scores.tolist(), strict=True)
        return tuple(NamedClass(class_names[index], score) for index, score in rows)


@dataclass(frozen=True)
class NamedClass:
    """A class in words, and its score 0..1."""

    label: str
    score: float


@dataclass(frozen=True)
class Classified:
    """What a classifier takes one image file for, best class first."""

    file: str
    classes: tuple[NamedClass, ...]

    @property
    def summary(self) -> str:
        """The classes with their scores in percent: ``cat 93.1%, dog 4.0%``."""
        return ", ".join(f"{found.label} {100 * found.score:.1f}%" for found in self.classes)


@dataclass(frozen=True)
class DataCounts:
    """What of a split is judged by, and what of it was left out.

    Kept: ``images``, some of them ``images_without_objects`` and ``objects``, of which
    ``ignored_objects`` (crowds, difficult ones) are neither missed nor found, and
    ``objects_without_area`` cannot be found. Left out: ``damaged_images``; ``mislabelled_images``,
    whose label file has coordinates beyond the image; ``unlisted_images``, which the annotations do
    not name; ``repeated_images``, named twice; ``duplicate_rows`` of label files;
    ``skipped_folders``, to which a symbolic link led again; ``other_images`` of formats that are
    not read; ``labels_without_image``, label files.
    ``damaged_files`` are the names of the damaged images.
    """

    images: int = 0
    images_without_objects: int = 0
    objects: int = 0
    ignored_objects: int = 0
    objects_without_area: int = 0
    damaged_images: int = 0
    mislabelled_images: int = 0
    unlisted_images: int = 0
    repeated_images: int = 0
    duplicate_rows: int = 0
    skipped_folders: int = 0
    other_images: int = 0
    labels_without_image: int = 0
    damaged_files: tuple[str, ...] = ()


NO_COUNTS = DataCounts()
"""Nothing was counted, or nothing was left out."""


@dataclass(frozen=True)
class BenchResult:
    """Speed of one model whose float operations compute in ``float_precision``.

    ``speedup`` is the median over rounds of the fastest float's time / its own, ``of_f32`` the same
    against float32, None where there is no float model to compare with.
    ``int8_share`` is the share of convolution multiply-accumulates that execute in INT8, 0..1,
    None where the device does not say; ``device`` is OpenVINO's name of it, CPU or GPU.0;
    ``macs_per_s`` are all of one image over the median latency. ``images_per_s``, with
    ``requests`` images in flight at once, is None if it was not measured.
    """

    model: str
    latency_ms: float
    latency_p90_ms: float
    latency_p99_ms: float
    speedup: float
    of_f32: float | None
    float_precision: str
    precision: str
    int8_share: float | None
    macs_per_s: float
    size_mb: float
    images_per_s: float | None = None
    requests: int | None = None
    device: str = "CPU"

    def __post_init__(self) -> None:
        if not self.latency_ms > 0:
            raise DetqError(f"BenchResult of {self.model}: latency must be positive")


@dataclass(frozen=True)
class Machine:
    """What speed was measured on. ``features`` are those that INT8 depends on; ``load`` is the
    average number of busy processes in the minute before, None where the system does not say.

    ``int8_macs_per_s`` is what a large INT8 convolution reached on the CPU, in the same run.
    ``device`` is what models were measured on: CPU, AUTO, or another with its name.
    """

    cpu: str
    features: tuple[str, ...]
    cores: int
    threads: int
    load: float | None
    int8_macs_per_s: float
    device: str = "CPU"

    @property
    def is_busy(self) -> bool:
        """True if other processes took so much of the machine that figures mean little."""
        return is_busy(self.load, self.cores)


def is_busy(load: float | None, cores: int) -> bool:
    """True for so many busy processes that speed measured beside them means little."""
    return load is not None and load > 0.5 * cores


@dataclass(frozen=True)
class LayerTime:
    """One operation of the compiled model: median time per inference and share of all."""

    name: str
    kind: str
    kernel: str
    precision: str
    ms: float
    share: float
