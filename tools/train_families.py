"""Train a network of another family from scratch, to have trained ones of every family to measure.

    PYTHONPATH=. .venv-train/bin/python tools/train_families.py yolo26n \\
        --data runs/digits/data.yaml --output runs/zoo/digits_yolo26n.pt --hours 1

The families that Ultralytics describes (yolov9t, yolov10n, yolo11n, yolo26n, …), by its own trainer
and loss, and an RT-DETR small enough for two CPU cores, ``rtdetr-small``. The file is a checkpoint
as Ultralytics writes them: half precision, without the optimizer. What is trained here is test
data: weights under Ultralytics' licence (AGPL-3.0), which are not part of detq. The environment is
that of docs/training.md; networks of YOLOv6's families are trained by ``tools/train_embedded.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from train_embedded import overrides, ultralytics_yaml
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.torch_utils import strip_optimizer

from detq.config import read_dataset

SMALL_RTDETR = "rtdetr-small"
SMALL_RTDETR_DESCRIPTION: dict[str, Any] = {
    "nc": 80,
    "scales": {"s": [1.0, 1.0, 1024]},
    "backbone": [
        [-1, 1, "ResNetLayer", [3, 32, 1, True, 1]],  # stride 4
        [-1, 1, "ResNetLayer", [32, 16, 1, False, 2]],
        [-1, 1, "ResNetLayer", [64, 32, 2, False, 2]],  # 2, stride 8
        [-1, 1, "ResNetLayer", [128, 64, 2, False, 2]],  # 3, stride 16
        [-1, 1, "ResNetLayer", [256, 96, 2, False, 2]],  # 4, stride 32
    ],
    "head": [
        [-1, 1, "Conv", [128, 1, 1, None, 1, 1, False]],
        [-1, 1, "AIFI", [256, 4]],
        [-1, 1, "Conv", [128, 1, 1]],  # 7
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [3, 1, "Conv", [128, 1, 1, None, 1, 1, False]],
        [[-2, -1], 1, "Concat", [1]],
        [-1, 1, "RepC3", [128]],
        [-1, 1, "Conv", [128, 1, 1]],  # 12
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [2, 1, "Conv", [128, 1, 1, None, 1, 1, False]],
        [[-2, -1], 1, "Concat", [1]],
        [-1, 1, "RepC3", [128]],  # 16
        [-1, 1, "Conv", [128, 3, 2]],
        [[-1, 12], 1, "Concat", [1]],
        [-1, 1, "RepC3", [128]],  # 19
        [-1, 1, "Conv", [128, 3, 2]],
        [[-1, 7], 1, "Concat", [1]],
        [-1, 1, "RepC3", [128]],  # 22
        # classes, width, queries, points, heads, decoder layers, width of the feed-forward network
        [[16, 19, 22], 1, "RTDETRDecoder", ["nc", 128, 100, 4, 4, 3, 256]],
    ],
}


class DetectorTrainer(DetectionTrainer):
    """Ultralytics' trainer, without its last validation and the plots."""

    def final_eval(self) -> None:
        """Not here: the result is measured by ``detq eval``, on images that training never saw."""


class QueryTrainer(RTDETRTrainer):
    """The same for RT-DETR."""

    def final_eval(self) -> None:
        """Not here."""


def description(name: str, folder: Path) -> str:
    """What Ultralytics builds the network from: the name of its own file, or one written here."""
    if name != SMALL_RTDETR:
        return f"{name}.yaml"
    path = folder / "networks" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(SMALL_RTDETR_DESCRIPTION, sort_keys=False))
    return str(path.resolve())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", help=f"as Ultralytics calls it (yolo26n, …), or {SMALL_RTDETR}")
    parser.add_argument("--data", type=Path, required=True, help="data.yaml with YOLO labels")
    parser.add_argument("--output", type=Path, required=True, help="the .pt to write")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--hours", type=float, help="stop by the clock instead of by epochs")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--flip", type=float, default=0.0, help="share mirrored; not for digits")
    parser.add_argument("--warmup", type=float, default=0.3, help="epochs of rising learning rate")
    parser.add_argument("--scale", type=float, default=0.2, help="random zoom, plus or minus")
    parser.add_argument("--translate", type=float, default=0.1, help="random shift, plus or minus")
    parser.add_argument("--workers", type=int, default=2, help="processes that read images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/training"))
    given = parser.parse_args()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    data = ultralytics_yaml(read_dataset(given.data), given.runs / f"{given.output.stem}.yaml")
    kind = QueryTrainer if given.family.startswith("rtdetr") else DetectorTrainer
    trainer = kind(
        overrides=overrides(
            given,
            data,
            model=description(given.family, given.runs),
            mosaic=0.0,
            amp=False,  # its check downloads a network
            val=False,
        )
    )
    trainer.train()
    strip_optimizer(trainer.last, given.output)
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
