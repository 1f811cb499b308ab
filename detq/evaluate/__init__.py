"""How good a detector is: COCO mAP on labelled images, agreement with another model on any."""

from detq.evaluate.agreement import agreement
from detq.evaluate.classes import map_classes
from detq.evaluate.coco_map import CocoScores, coco_detections, score_detections
from detq.evaluate.evaluator import Progress, Run, evaluate, run_detector, score_run
from detq.evaluate.protocol import PROTOCOLS, Protocol

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
