"""Frozen values that travel between rooms, each checked when it is made: what travels with a model
(``spec``) and what is found, counted and measured (``values``).
"""

from detq.records.coco_names import COCO_IDS, COCO_NAMES
from detq.records.spec import ModelSpec, ultralytics_keys
from detq.records.values import (
    NO_COUNTS,
    BenchResult,
    Classified,
    DataCounts,
    Detections,
    EvalResult,
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
    part_of,
    placeholder_names,
)

__all__ = [
    "COCO_IDS",
    "COCO_NAMES",
    "NO_COUNTS",
    "BenchResult",
    "Classified",
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
    "part_of",
    "placeholder_names",
    "ultralytics_keys",
]
