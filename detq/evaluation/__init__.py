"""How good a model is: COCO mAP or top-1 on labelled images, agreement with another on any."""

from detq.evaluation.agreement import agreement
from detq.evaluation.classes import map_classes
from detq.evaluation.coco_map import CocoScores, coco_detections, score_detections
from detq.evaluation.evaluator import Run, evaluate, run_detector, score_run
from detq.evaluation.protocol import PROTOCOLS, Protocol
from detq.evaluation.top_k import (
    ClassifierRun,
    evaluate_classifier,
    run_classifier,
    same_top1,
    top_percent,
)

__all__ = [
    "PROTOCOLS",
    "ClassifierRun",
    "CocoScores",
    "Protocol",
    "Run",
    "agreement",
    "coco_detections",
    "evaluate",
    "evaluate_classifier",
    "map_classes",
    "run_classifier",
    "run_detector",
    "same_top1",
    "score_detections",
    "score_run",
    "top_percent",
]
