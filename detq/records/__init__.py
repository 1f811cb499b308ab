"""Frozen values that travel between rooms, each checked when it is made: what travels with a model
(``spec``), what is found, counted and measured (``values``), how good a model is (``accuracy``).
"""

from detq.records.accuracy import STEPS, ClassScores, Confusion, EvalResult, mean_curve
from detq.records.coco_names import COCO_IDS, COCO_NAMES
from detq.records.spec import ModelSpec, ultralytics_keys
from detq.records.values import (
    NO_COUNTS,
    BenchResult,
    Classified,
    DataCounts,
    Detections,
    Fit,
    LayerTime,
    Machine,
    NamedClass,
    NamedDetection,
    Part,
    Prediction,
    Ranking,
    ReparamConvolution,
    SizeHW,
    is_busy,
    part_of,
    placeholder_names,
)

__all__ = [
    "COCO_IDS",
    "COCO_NAMES",
    "NO_COUNTS",
    "STEPS",
    "BenchResult",
    "ClassScores",
    "Classified",
    "Confusion",
    "DataCounts",
    "Detections",
    "EvalResult",
    "Fit",
    "LayerTime",
    "Machine",
    "ModelSpec",
    "NamedClass",
    "NamedDetection",
    "Part",
    "Prediction",
    "Ranking",
    "ReparamConvolution",
    "SizeHW",
    "is_busy",
    "mean_curve",
    "part_of",
    "placeholder_names",
    "ultralytics_keys",
]
