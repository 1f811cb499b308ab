"""How good a model is, and how well a detector finds each class: figures, curves, confusions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from detq.errors import DetqError
from detq.records.values import NO_COUNTS, DataCounts

STEPS = 101
"""Points of a curve: recalls or confidences 0.00, 0.01, … 1.00."""


@dataclass(frozen=True)
class ClassScores:
    """How well the objects of one class are found, or the mean of all classes that have objects.

    ``map``, ``map50`` and ``mar100`` are COCO's average precision over IoU 0.50 to 0.95 and at 0.50
    and its average recall with 100 detections per image, in percent; None if there is nothing to
    find. ``objects`` can be found: crowds and difficult ones are not among them.
    At IoU 0.5, 0..1, empty if there is nothing to find: ``precision`` [101] where the recall
    reaches 0.00, 0.01, … 1.00, and ``f1`` [101] of the detections with a score of at least 0.00,
    0.01, … 1.00.
    """

    map: float | None
    map50: float | None
    mar100: float | None
    objects: int
    precision: tuple[float, ...] = ()
    f1: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("precision", "f1"):
            if (count := len(getattr(self, name))) not in (0, STEPS):
                raise DetqError(f"ClassScores.{name}: expected {STEPS} points or none, got {count}")

    @property
    def best_f1(self) -> float | None:
        """The greatest F1 of any confidence threshold, 0..1."""
        return max(self.f1, default=None)

    @property
    def best_confidence(self) -> float | None:
        """The threshold that reaches it; the middle one where neighbours do as well. None where
        nothing is ever found: no threshold is better than another then.
        """
        best = self.best_f1
        if not best:
            return None
        first = last = self.f1.index(best)
        while last + 1 < STEPS and self.f1[last + 1] == best:
            last += 1
        return (first + last) // 2 / (STEPS - 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return {
            **{"map": self.map, "map50": self.map50, "mar100": self.mar100},
            **{"objects": self.objects, "best_f1": self.best_f1},
            "best_confidence": self.best_confidence,
            "precision_by_recall": [round(value, 5) for value in self.precision],
            "f1_by_confidence": [round(value, 5) for value in self.f1],
        }


def mean_curve(curves: Iterable[Sequence[float]]) -> tuple[float, ...]:
    """Of those that have points; none if none has."""
    known = [curve for curve in curves if curve]
    return tuple(np.mean(known, axis=0).tolist()) if known else ()


@dataclass(frozen=True)
class Confusion:
    """What objects of each class are taken for.

    ``counts`` are by (object's class, detection's class), places in ``class_names``; their number
    stands for background: (class, background) are objects that nothing finds, (background, class)
    detections where nothing is. Pairs that do not occur are left out. Detections count from a
    score of ``confidence`` on, and an object from an overlap of ``iou`` on
    (:mod:`detq.evaluation.confusion`).
    """

    class_names: tuple[str, ...]
    counts: Mapping[tuple[int, int], int]
    iou: float
    confidence: float

    def matrix(self) -> npt.NDArray[np.int64]:
        """[n + 1, n + 1]: rows are objects, columns detections, the last of each background."""
        size = len(self.class_names) + 1
        matrix = np.zeros((size, size), np.int64)
        for place, count in self.counts.items():
            matrix[place] = count
        return matrix

    def mistakes(self) -> list[tuple[str | None, str | None, int]]:
        """(object's class, detection's class, how often) of all that is wrong, most frequent first.

        None is background.
        """
        wrong = [(pair, count) for pair, count in self.counts.items() if pair[0] != pair[1]]
        return [
            (self._name(pair[0]), self._name(pair[1]), count)
            for pair, count in sorted(wrong, key=lambda item: (-item[1], item[0]))
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name; background is None."""
        return {
            "iou": self.iou,
            "confidence": self.confidence,
            "pairs": [
                {"object": self._name(row), "detection": self._name(column), "count": count}
                for (row, column), count in sorted(self.counts.items())
            ],
        }

    def _name(self, place: int) -> str | None:
        return self.class_names[place] if place < len(self.class_names) else None


@dataclass(frozen=True)
class EvalResult:
    """How good one model is on one split.

    ``scores`` are in percent, the one that counts first: of a detector COCO's ``map``, ``map50``,
    ``map75``, ``map_small``, ``map_medium`` and ``map_large``, its average recall ``mar1``,
    ``mar10``, ``mar100``, ``mar_small``, ``mar_medium`` and ``mar_large``, None where pycocotools
    says -1; of a classifier ``top1`` and ``top5``. Each is an attribute of that name, too.
    ``seconds`` is the wall time of decoding, inference and post-processing of ``images`` images;
    ``precision`` is what the runtime executed (fp32, bf16, int8); ``size_mb`` the bytes of all
    constants; ``data`` what the figures rest on. Of a detector, ``per_class`` is how it finds each
    class of the data set by name, and ``confusion`` what it takes them for.
    """

    model: str
    scores: Mapping[str, float | None]
    images: int
    seconds: float
    precision: str
    size_mb: float
    data: DataCounts = NO_COUNTS
    per_class: Mapping[str, ClassScores] = field(default_factory=dict)
    confusion: Confusion | None = None

    def __post_init__(self) -> None:
        if self.images <= 0:
            raise DetqError(f"EvalResult of {self.model}: no images were evaluated")
        if not self.scores:
            raise DetqError(f"EvalResult of {self.model}: expected at least one score, got none")

    def __getattr__(self, name: str) -> float | None:
        scores: Mapping[str, float | None] = self.__dict__.get("scores", {})  # none while copied
        if name not in scores:
            raise AttributeError(f"EvalResult: no attribute and no score {name!r}: {[*scores]}")
        return scores[name]

    @property
    def score(self) -> float | None:
        """The one that counts: mAP, or top-1."""
        return next(iter(self.scores.values()))

    @property
    def all_classes(self) -> ClassScores:
        """Of a detector: the mean of its classes, with the number of all objects."""
        classes = self.per_class.values()
        return ClassScores(
            map=self.scores.get("map"),
            map50=self.scores.get("map50"),
            mar100=self.scores.get("mar100"),
            objects=sum(one.objects for one in classes),
            precision=mean_curve(one.precision for one in classes),
            f1=mean_curve(one.f1 for one in classes),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, each score under its own; of all classes together."""
        whole = replace(self, per_class={}, confusion=None)
        document = asdict(whole)
        del document["per_class"], document["confusion"]
        scores = document.pop("scores")
        return {"model": document.pop("model"), **scores, **document}

    def details(self) -> dict[str, Any]:
        """Plain values of a detector's classes: each, their mean, and what is taken for what."""
        return {
            "per_class": {name: one.to_dict() for name, one in self.per_class.items()},
            "all_classes": self.all_classes.to_dict(),
            "confusion": None if self.confusion is None else self.confusion.to_dict(),
        }
