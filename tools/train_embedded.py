"""Train detq's own YOLOv6 networks with Ultralytics' trainer.

A YOLOv6-N with all RepVGG branches, from scratch, on the digits that ``detq digits`` makes, unless
arguments say otherwise: with ``--model CHECKPOINT`` and ``--data`` of your own, the same door
fine-tunes YOLOv6. Needs an environment with Ultralytics and torchvision, which is not detq's own:
see docs/training.md.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel

from detq.adapters import StoredModel, read_model, write_safetensors
from detq.config import DatasetConfig, read_dataset
from detq.models import OFFICIAL_NAMES, AnyArchitecture, YOLOv6, build, official
from detq.models.architecture import DFL_BINS

FIRST_SCORE_LOGIT = -4.6  # every class starts at a probability of 1%
FIRST_DISTANCE = 1.5  # strides from a cell's centre to each side of its first boxes


class TrainingDecode(nn.Module):
    """In place of the decode: the head's maps as Ultralytics' loss wants them."""

    def __init__(self, decode: nn.Module) -> None:
        super().__init__()
        self.decode = decode

    def forward(self, regressions: list[Tensor], logits: list[Tensor]) -> Any:
        maps = {
            "boxes": torch.cat([level.flatten(2) for level in regressions], 2),  # [B, 4·bins, N]
            "scores": torch.cat([level.flatten(2) for level in logits], 2),  # [B, nc, N]
            "feats": logits,  # whose sizes give the grid
        }
        if self.training:
            return maps
        on_cpu = ([level.cpu() for level in levels] for levels in (regressions, logits))
        return self.decode(*on_cpu).to(logits[0].device), maps  # its constants are on the CPU


class Trainable(DetectionModel):
    """A detq network behind the interface that Ultralytics trains."""

    def __init__(self, network: YOLOv6, architecture: AnyArchitecture, names: list[str]) -> None:
        nn.Module.__init__(self)  # not the parent's, which would build a network of its own
        network.detect.decode = TrainingDecode(network.detect.decode)
        self.model = nn.Sequential(network)
        self.architecture = architecture
        self.names = dict(enumerate(names))
        self.nc = architecture.class_count
        self.yaml = {"nc": self.nc}
        self.stride = torch.tensor(architecture.strides, dtype=torch.float32)
        self.inplace, self.save, self.task = False, [], "detect"
        # What the loss and the validator look up at the last layer:
        network.stride, network.nc, network.max_det = self.stride, self.nc, 300
        network.reg_max = 1 if architecture.regression_channels == 4 else DFL_BINS

    def predict(self, x: Tensor, *_: Any, **__: Any) -> Any:
        return self.model[0](x)

    def stored(self, size_px: int) -> StoredModel:
        """The network as detq keeps it: its own decode, weights rounded to half precision."""
        network: YOLOv6 = self.model[0]
        network.detect.decode = network.detect.decode.decode
        network = network.half().float().eval()
        names = tuple(self.names.values())
        return StoredModel(network, self.architecture, names, (size_px, size_px))


class Trainer(DetectionTrainer):
    """Ultralytics' trainer around a network that is given, with two changes of its schedule."""

    network: Trainable
    reduced: float
    batches_done = 0

    def get_model(self, *_: Any, **__: Any) -> Trainable:
        return self.network

    def progress(self) -> float:
        """0 at the start, 1 at the end: by the clock if there is a time limit, else by batches."""
        if self.args.time:
            return min((time.time() - self.train_time_start) / (self.args.time * 3600), 1.0)
        return min(self.batches_done / (len(self.train_loader) * self.epochs), 1.0)

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """At first the pictures are smaller: three quarters of the side, half the work."""
        batch = super().preprocess_batch(batch)
        if self.progress() < self.reduced:
            side = self.args.imgsz * 3 // 4 // self.stride * self.stride
            batch["img"] = functional.interpolate(batch["img"], (side, side), mode="area")
        return batch

    def set_learning_rate(self) -> None:
        """A cosine over all batches, where Ultralytics' own steps once per epoch."""
        self.batches_done += 1
        share = (1 + math.cos(math.pi * self.progress())) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (self.args.lrf + (1 - self.args.lrf) * share)

    def final_eval(self) -> None:
        """Not here: the result is measured by ``detq eval``, on images that training never saw."""


def make_network(
    model: str, names: list[str], *, width: float | None = None, depth: float | None = None
) -> Trainable:
    """An official configuration from scratch, or the network in a checkpoint.

    ``width`` and ``depth`` are multiples in place of the configuration's own.
    If the checkpoint knows other classes, its class predictors start anew.
    """
    if model in OFFICIAL_NAMES:
        architecture = official(
            model, class_count=len(names), width_multiple=width, depth_multiple=depth
        )
        network = build(architecture)
        _start(network.detect.cls_preds, FIRST_SCORE_LOGIT)
        if architecture.regression_channels == 4:
            _start(network.detect.reg_preds, FIRST_DISTANCE)
        return Trainable(network, architecture, names)
    stored = read_model(Path(model))
    network, architecture = stored.module.train().requires_grad_(True), stored.architecture
    if stored.class_names != tuple(names):
        architecture = replace(architecture, class_count=len(names))
        network.detect.cls_preds = build(architecture).detect.cls_preds
        _start(network.detect.cls_preds, FIRST_SCORE_LOGIT)
    return Trainable(network, architecture, names)


def _start(predictors: nn.ModuleList, bias: float) -> None:
    for predictor in predictors:
        nn.init.constant_(predictor.bias, bias)


def ultralytics_yaml(config: DatasetConfig, path: Path) -> str:
    """Write the data set's YAML as Ultralytics reads it, with absolute paths."""
    document: dict[str, Any] = {"path": str(config.path), "names": list(config.class_names)}
    for split in ("train", "val"):
        document[split] = getattr(config, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document))
    return str(path.resolve())


def overrides(given: argparse.Namespace, data: str, **more: Any) -> dict[str, Any]:
    """What differs from Ultralytics' defaults: the arguments that all trainings have, ``more`` and
    what is the same for all.
    """
    return {
        "data": data,
        "imgsz": given.imgsz,
        "epochs": given.epochs,
        "time": given.hours,
        "batch": given.batch,
        "nbs": given.batch,  # one step per batch
        "optimizer": "AdamW",
        "lr0": given.lr,
        "lrf": 0.02,
        "warmup_epochs": given.warmup,
        "warmup_bias_lr": 0.0,
        "weight_decay": 0.01,
        "close_mosaic": 0,
        "scale": given.scale,
        "translate": given.translate,
        "fliplr": given.flip,
        "erasing": 0.0,
        "cache": "ram",
        "deterministic": False,
        "workers": given.workers,
        "plots": False,
        "device": "0" if torch.cuda.is_available() else "cpu",
        "seed": given.seed,
        "project": str(given.runs.resolve()),
        "name": given.output.stem,
        "exist_ok": True,
        **more,
    }


def train(trainer: DetectionTrainer, *, bf16: bool = False) -> None:
    """On all cores, of which Ultralytics leaves one out; on a CPU in bfloat16 if asked."""
    torch.set_num_threads(os.cpu_count() or 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train or fine-tune YOLOv6: docs/training.md.")
    parser.add_argument("--data", type=Path, required=True, help="data.yaml with YOLO labels")
    parser.add_argument("--output", type=Path, required=True, help="the .safetensors to write")
    parser.add_argument("--model", default="yolov6n", help="official name, or a checkpoint")
    parser.add_argument("--width", type=float, help="width multiple, from scratch: yolov6m: 0.75")
    parser.add_argument("--depth", type=float, help="depth multiple, likewise: yolov6m has 0.6")
    parser.add_argument("--imgsz", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--hours", type=float, help="stop by the clock instead of by epochs")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--flip", type=float, default=0.0, help="share mirrored; not for digits")
    parser.add_argument("--reduced", type=float, default=0.5, help="share on smaller pictures")
    parser.add_argument("--warmup", type=float, default=0.3, help="epochs of rising learning rate")
    parser.add_argument("--scale", type=float, default=0.2, help="random zoom, plus or minus")
    parser.add_argument("--translate", type=float, default=0.1, help="random shift, plus or minus")
    parser.add_argument("--mosaic", type=float, default=0.0, help="share of mosaics of four images")
    parser.add_argument("--workers", type=int, default=8, help="processes that read images")
    parser.add_argument(
        "--no-amp", dest="amp", action="store_false", help="float32 only; amp downloads a check"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/training"))
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    config = read_dataset(arguments.data)
    data = ultralytics_yaml(config, arguments.runs / f"{arguments.output.stem}.yaml")
    trainer = Trainer(
        overrides=overrides(
            arguments,
            data,
            model="yolov6.yaml",  # a name that Ultralytics accepts; Trainer.get_model decides
            mosaic=arguments.mosaic,
            amp=arguments.amp and torch.cuda.is_available(),
        )
    )
    trainer.reduced = arguments.reduced
    trainer.network = make_network(
        arguments.model, list(config.class_names), width=arguments.width, depth=arguments.depth
    )
    trainer.add_callback("on_train_batch_start", Trainer.set_learning_rate)
    train(trainer)
    trained: Trainable = trainer.ema.ema.cpu()
    write_safetensors(trained.stored(arguments.imgsz), arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
