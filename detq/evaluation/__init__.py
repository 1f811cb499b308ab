"""How good a detector is: COCO mAP on labelled images, agreement with another model on any."""

from detq.evaluation.agreement import agreement
from detq.evaluation.classes import map_classes
from detq.evaluation.coco_map import CocoScores, coco_detections, score_detections
from detq.evaluation.evaluator import Progress, Run, evaluate, run_detector, score_run
from detq.evaluation.protocol import PROTOCOLS, Protocol

__all__ = [
    "PROTOCOLS",
    "CocoScores",
    "Progress",
    "Protocol",
    "Run",
    "agreement",
    "coco_detections",
    "evaluate",
    "map_classes",
    "run_detector",
    "score_detections",
    "score_run",
]
