"""Ultralytics' own networks with random weights, and checkpoints as its trainer writes them.

The scores are spread so that there is something to detect.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from detq.adapters.ultralytics_package import find_description, import_tasks

CLASS_NAMES = {0: "red", 1: "green", 2: "blue"}
FAMILIES = {  # smallest network of each, and an image size
    "yolov5n": 128,
    "yolov8n": 128,
    "yolov9t": 128,
    "yolov10n": 128,
    "yolo11n": 128,
    "yolo12n": 128,
    "yolo26n": 128,
    "rtdetr-resnet50": 96,
}


def random_network(name: str) -> Any:
    """Ultralytics' network of that name for three classes, in half precision's numbers."""
    tasks = import_tasks()
    file, letter = find_description(name)
    document = yaml.safe_load(file.read_text())
    document |= {
        "nc": len(CLASS_NAMES),
        "scale": letter or next(iter(document.get("scales", [""]))),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        is_rtdetr = name.startswith("rtdetr")
        kind = tasks.RTDETRDetectionModel if is_rtdetr else tasks.DetectionModel
        network = kind(document, verbose=False).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
        for last in _last_layers(network.model[-1]):
            nn.init.normal_(last.weight, 0, 0.3)
            nn.init.normal_(last.bias, -2, 0.5)
    network.names = CLASS_NAMES
    return network.half().float()


def _last_layers(head: Any) -> list[Any]:
    """Those that give class logits."""
    if hasattr(head, "dec_score_head"):
        return [*head.dec_score_head, head.enc_score_head]
    branches = [head.cv3, *([head.one2one_cv3] if hasattr(head, "one2one_cv3") else [])]
    return [level[-1] for branch in branches for level in branch]


def write_checkpoint(network: Any, path: Path, size: int) -> Path:
    """What training leaves: the averaged network in half precision, settings, results."""
    stored = copy.deepcopy(network).half()
    stored.args = {"imgsz": size, "task": "detect"}
    torch.save(
        {
            "epoch": -1,
            "best_fitness": None,
            "model": stored,
            "ema": None,
            "optimizer": None,
            "train_args": {"imgsz": size},
            "train_results": {"epoch": [1, 2]},
            "version": "8",
        },
        path,
    )
    return path
