"""Train a network of another family from scratch, to have trained ones of every family to measure.

    PYTHONPATH=. .venv-train/bin/python tools/train_families.py yolo26n \\
        --data runs/digits/data.yaml --output runs/zoo/digits_yolo26n.pt --hours 1

The families that Ultralytics describes (yolov9t, yolov10n, yolo11n, yolo26n, …), by its own trainer
and loss, and these with the head of an RT-DETR, ``yolo11n-rtdetr``: on a body that is trained
already (``--body``) queries need no GPU. The file is a checkpoint as Ultralytics writes them: half
precision, without the optimizer. What is trained here is test data: weights under Ultralytics'
licence (AGPL-3.0), which are not part of detq. The environment is that of docs/training.md;
networks of YOLOv6's families are trained by ``tools/train_embedded.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from train_embedded import overrides, train, ultralytics_yaml
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils.torch_utils import strip_optimizer

from detq.config import read_dataset

OF_QUERIES = "-rtdetr"
"""Ends the names of networks with another family's body and RT-DETR's head."""
WIDTH, QUERIES, POINTS, HEADS, LAYERS = 128, 100, 4, 4, 3


class DetectorTrainer(DetectionTrainer):
    """Ultralytics' trainer, without its last validation and the plots."""

    def final_eval(self) -> None:
        """Not here: the result is measured by ``detq eval``, on images that training never saw."""


class QueryTrainer(RTDETRTrainer):
    """The same for RT-DETR."""

    def final_eval(self) -> None:
        """Not here."""


def description(name: str, folder: Path) -> str:
    """What Ultralytics builds the network from: the name of its own file, or one written here, with
    a transformer's encoder on the coarsest level of the body's features and RT-DETR's decoder.
    """
    body = name.removesuffix(OF_QUERIES)
    if body == name:
        return f"{name}.yaml"
    network = yaml_model_load(f"{body}.yaml")
    *layers, (levels, *_) = network["head"]
    encoder = [-1, 1, "AIFI", [2 * WIDTH, HEADS]]
    decoder = ["nc", WIDTH, QUERIES, POINTS, HEADS, LAYERS, 2 * WIDTH]
    levels = [*levels[:-1], levels[-1] + 1]
    network["head"] = [*layers, encoder, [levels, 1, "RTDETRDecoder", decoder]]
    path = folder / "networks" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(network, sort_keys=False))
    return str(path.resolve())


def of_body(given: argparse.Namespace) -> dict[str, Any]:
    """Settings that start from a trained body and leave it as it is."""
    if given.body is None:
        return {}
    network = yaml_model_load(f"{given.family.removesuffix(OF_QUERIES)}.yaml")
    kept = len(network["backbone"]) + len(network["head"]) - 1
    return {"pretrained": str(given.body.resolve()), "freeze": kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", help="as Ultralytics calls it: yolo26n, …; yolo11n-rtdetr")
    parser.add_argument("--body", type=Path, help="trained .pt of the same body, which stays as is")
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
    parser.add_argument("--bf16", action="store_true", help="on a CPU: faster where it has AMX")
    parser.add_argument("--workers", type=int, default=2, help="processes that read images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/training"))
    given = parser.parse_args()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    data = ultralytics_yaml(read_dataset(given.data), given.runs / f"{given.output.stem}.yaml")
    kind = QueryTrainer if "rtdetr" in given.family else DetectorTrainer
    trainer = kind(
        overrides=overrides(
            given,
            data,
            model=description(given.family, given.runs),
            mosaic=0.0,
            amp=False,  # its check downloads a network
            val=False,
            **of_body(given),
        )
    )
    train(trainer, bf16=given.bf16)
    strip_optimizer(trainer.last, given.output)
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
