"""Train RepVGG classifiers on CIFAR-10, on a CPU or a GPU, to have something real to quantize.

The original block (3x3, 1x1 and identity, each with a BatchNorm) with stage strides that fit 32x32
pixels and widths that two CPU cores can train. Writes the original repository's state dict, in
training form, inside a dict that also says what such a file leaves open (docs/adapters.md): the
strides, the class names, the size and the normalisation.

    python tools/train_cifar10.py --network A --output runs/cifar10/repvgg_a.pth

With ``--minutes`` the learning rate falls by the clock, so that the run ends in time; the same
seed then need not give the same weights. A stopped run goes on with ``--resume``: what it did is
kept after every epoch. ``--epochs`` and ``--minutes`` then count what is left. A finished run goes
on with another cycle of learning rates (warm restart, Loshchilov and Hutter, arXiv 1608.03983):

    python tools/train_cifar10.py --network A --output runs/cifar10/repvgg_a.pth \\
        --resume --epochs 8 --lr 0.08 --reduced 0
"""

from __future__ import annotations

import argparse
import math
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from detq.models.classifiers import ChainClassifier, ClassifierArchitecture, repvgg

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SIDE_PX, SMALL_SIDE_PX = 32, 24
NETWORKS = {  # depths, widths and strides of stage0 to stage4
    "A": ((1, 1, 2, 4, 1), (32, 48, 96, 192, 384), (1, 1, 2, 2, 2)),
    "B": ((1, 2, 3, 6, 1), (32, 32, 64, 128, 256), (1, 1, 2, 2, 2)),
    "C": ((1, 4, 8, 12, 1), (32, 48, 64, 128, 256), (1, 1, 2, 2, 2)),  # a chain of 26 blocks
}
ORIGINAL_NAMES = {
    "branches.0.": "rbr_dense.",
    "pointwise.": "rbr_1x1.",
    "identity.": "rbr_identity.",
}


@dataclass(frozen=True)
class Images:
    """``pixels`` uint8 [N, 3, 32, 32] RGB, ``labels`` int64 [N]."""

    pixels: Tensor
    labels: Tensor
    class_names: tuple[str, ...]


def read_images(path: Path) -> Images:
    """A tar of JPEG files, one folder per class; decoded once, then kept beside it in ``runs``."""
    images, labels = list[np.ndarray](), list[str]()
    with tarfile.open(path) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None:
                bgr = cv2.imdecode(np.frombuffer(content.read(), np.uint8), cv2.IMREAD_COLOR)
                images.append(bgr[:, :, ::-1])
                labels.append(Path(member.name).parent.name)
    names = tuple(sorted(set(labels)))
    return Images(
        torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()),
        torch.tensor([names.index(label) for label in labels]),
        names,
    )


def normalized(pixels: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> float32 with mean 0, channels last."""
    mean, std = (
        torch.tensor(value, device=pixels.device).view(1, 3, 1, 1) for value in (MEAN, STD)
    )
    images = (pixels.float() / 255 - mean) / std
    return images.contiguous(memory_format=torch.channels_last)


def augmented(pixels: Tensor, side_px: int, generator: torch.Generator) -> Tensor:
    """Every image mirrored at random, shifted by up to 4 pixels, and made ``side_px`` large."""
    count = len(pixels)
    padded = functional.pad(pixels, (4, 4, 4, 4), mode="constant", value=118)
    shifts = torch.randint(0, 9, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    rows = shifts[0][:, None] + torch.arange(SIDE_PX)  # [B, 32]
    columns = shifts[1][:, None] + torch.arange(SIDE_PX)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    picked = padded.permute(0, 2, 3, 1)[
        torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    images = normalized(picked.permute(0, 3, 1, 2))
    if side_px == SIDE_PX:
        return images
    small = functional.interpolate(images, (side_px, side_px), mode="area")
    return small.contiguous(memory_format=torch.channels_last)


@dataclass
class Schedule:
    """Progress from 0 to 1: by batches, or by the clock if that is further."""

    batches: int
    seconds: float | None
    done: int = 0
    started: float = 0.0
    resumed_at: float = 0.0  # the progress that an earlier run made

    def progress(self) -> float:
        share = self.done / self.batches
        if self.seconds is not None:
            share = max(share, (time.monotonic() - self.started) / self.seconds)
        return min(self.resumed_at + (1 - self.resumed_at) * share, 1.0)

    def learning_rate(self, peak: float) -> float:
        """Up in the first eighth, then down a half cosine."""
        share = self.progress()
        if share < 0.125:
            return peak * (0.1 + 0.9 * share / 0.125)
        return peak * max(0.5 * (1 + math.cos(math.pi * (share - 0.125) / 0.875)), 1e-3)


@torch.no_grad()
def accuracy(network: ChainClassifier, images: Images, device: torch.device) -> float:
    """Top-1 in percent, in float32."""
    network.eval()
    right = 0
    for start in range(0, len(images.labels), 500):
        batch = normalized(images.pixels[start : start + 500]).to(device)
        found = network.logits(batch).argmax(1).cpu()
        right += int((found == images.labels[start : start + 500]).sum())
    network.train()
    return 100 * right / len(images.labels)


def optimizer_of(network: nn.Module, weight_decay: float, *, all_decay: bool) -> torch.optim.SGD:
    """Kernels decay; what BatchNorms and biases hold only with ``all_decay``, torch's default."""
    kernels = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": weight_decay if all_decay else 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)


def save(
    network: ChainClassifier,
    architecture: ClassifierArchitecture,
    strides: tuple[int, ...],
    images: Images,
    path: Path,
) -> None:
    """The original repository's keys; replaced in one step, so that a stop loses nothing."""
    state = dict[str, Tensor]()
    for key, tensor in network.state_dict().items():
        name = key
        for ours, original in ORIGINAL_NAMES.items():
            name = name.replace(ours, original)
        state[name] = tensor.cpu().contiguous()
    document = {
        "state_dict": state,
        "names": list(images.class_names),
        "strides": list(strides),
        "imgsz": SIDE_PX,
        "mean": list(architecture.mean),
        "std": list(architecture.std),
    }
    part = path.with_name(f".{path.name}.part")
    torch.save(document, part)
    part.replace(path)


@dataclass(frozen=True)
class Run:
    """A network in training, and all that a stopped run needs to go on."""

    network: ChainClassifier
    optimizer: torch.optim.SGD
    generator: torch.Generator
    schedule: Schedule
    device: torch.device

    def keep(self, path: Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "progress": self.schedule.progress(),
        }
        torch.save(state, path)

    def go_on(self, path: Path) -> None:
        """Where the run of that file was; after a finished one with a new cycle."""
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.schedule.resumed_at = 0.0 if state["progress"] >= 1 else state["progress"]


def train_epoch(run: Run, data: Images, arguments: argparse.Namespace) -> float:
    """Every image once, or until the schedule ends; the mean loss."""
    order = torch.randperm(len(data.labels), generator=run.generator)
    per_epoch = len(data.labels) // arguments.batch
    losses = list[float]()
    for picked in order[: per_epoch * arguments.batch].split(arguments.batch):
        side_px = SMALL_SIDE_PX if run.schedule.progress() < arguments.reduced else SIDE_PX
        batch = augmented(data.pixels[picked], side_px, run.generator).to(run.device)
        for group in run.optimizer.param_groups:
            group["lr"] = run.schedule.learning_rate(arguments.lr)
        with torch.autocast(run.device.type, torch.bfloat16):
            logits = run.network.logits(batch)
        loss = functional.cross_entropy(
            logits.float(), data.labels[picked].to(run.device), label_smoothing=0.1
        )
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        losses.append(loss.item())
        run.schedule.done += 1
        if len(losses) % 50 == 0:
            print(
                f"  batch {len(losses)}/{per_epoch} loss {np.mean(losses[-50:]):.3f} "
                f"progress {run.schedule.progress():.3f}",
                flush=True,
            )
        if run.schedule.progress() >= 1:
            break
    return float(np.mean(losses))


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data, held_out = (read_images(arguments.data / f"{split}.tar") for split in ("train", "test"))
    depths, widths, strides = NETWORKS[arguments.network]
    architecture = repvgg(depths, widths, strides, class_count=10, mean=MEAN, std=STD)
    network = ChainClassifier(architecture).to(device, memory_format=torch.channels_last).train()
    batches = arguments.epochs * (len(data.labels) // arguments.batch)
    seconds = arguments.minutes * 60 if arguments.minutes else None
    schedule = Schedule(batches, seconds, started=time.monotonic())
    optimizer = optimizer_of(network, arguments.weight_decay, all_decay=arguments.all_decay)
    run = Run(network, optimizer, generator, schedule, device)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    state_path = arguments.output.with_suffix(".state")
    if arguments.resume:
        run.go_on(state_path)
    for epoch in range(arguments.epochs):
        loss = train_epoch(run, data, arguments)
        top1 = accuracy(network, held_out, device)
        save(network, architecture, strides, data, arguments.output)
        run.keep(state_path)
        elapsed = time.monotonic() - schedule.started
        print(
            f"epoch {epoch + 1}: loss {loss:.3f}, top-1 {top1:.2f}%, "
            f"{elapsed:.0f} s, {schedule.progress():.0%}",
            flush=True,
        )
        if schedule.progress() >= 1:
            break
    print(f"wrote {arguments.output}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a RepVGG classifier on CIFAR-10.")
    parser.add_argument("--network", choices=sorted(NETWORKS), required=True)
    parser.add_argument("--output", type=Path, required=True, help="the .pth to write")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/cifar10"))
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--minutes", type=float, help="end by the clock, if that is sooner")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.15, help="the highest learning rate")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument(
        "--all-decay", action="store_true", help="BatchNorms and biases decay too: channels die out"
    )
    parser.add_argument("--reduced", type=float, default=0.55, help="share on 24x24 pixels")
    parser.add_argument(
        "--resume", action="store_true", help="go on where a stopped run of this output was"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments)


if __name__ == "__main__":
    main()
