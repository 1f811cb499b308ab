"""The main job on input that this script makes for itself: a few minutes, nothing downloaded.

1. Draws scenes of discs, squares and triangles with their COCO ground truth.
2. Trains a YOLOv6-N (all RepVGG branches, from scratch) on them, just long enough to detect.
3. Runs what a user would run: ``detq quantize``, ``detq bench`` and ``detq predict``.

Everything lands in ``runs/quickstart``. The detector is a toy; the quantization of it is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from detq.adapters import FloatModel, fuse_model
from detq.artifact import write_artifact
from detq.graph.convert import from_torch
from detq.models import YOLOv6, build, official
from detq.records import ModelSpec

SIZE = 128
STRIDES = (8, 16, 32)
CLASSES = ("disc", "square", "triangle")
SPLITS = {"train": 2000, "val": 200, "samples": 8}
LEVEL_LIMITS_PX = (28, 56)
"""Boxes with a side up to the first belong to stride 8, up to the second to 16, the rest to 32."""


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One image uint8 [SIZE, SIZE, 3] and its objects [n, 5]: class, x1, y1, x2, y2 in pixels."""
    coarse = rng.integers(40, 216, (4, 4, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    objects: list[tuple[int, int, int, int, int]] = []
    for _ in range(rng.integers(1, 6)):
        side = int(rng.integers(14, 60))
        left, top = (int(v) for v in rng.integers(0, SIZE - side, 2))
        box = (left, top, left + side, top + side)
        if any(_overlap(box, other[1:]) for other in objects):
            continue
        kind = int(rng.integers(len(CLASSES)))
        color = tuple(int(v) for v in rng.integers(0, 256, 3))
        _draw(image, kind, box, color)
        objects.append((kind, *box))
    noise = rng.normal(0, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), np.array(objects, np.float32)


def _overlap(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    return min(first[2], second[2]) > max(first[0], second[0]) and min(first[3], second[3]) > max(
        first[1], second[1]
    )


def _draw(image: np.ndarray, kind: int, box: tuple[int, ...], color: tuple[int, ...]) -> None:
    left, top, right, bottom = box[0], box[1], box[2] - 1, box[3] - 1
    middle = (left + right) // 2
    if CLASSES[kind] == "disc":
        cv2.circle(image, (middle, (top + bottom) // 2), (right - left) // 2, color, cv2.FILLED)
    elif CLASSES[kind] == "square":
        cv2.rectangle(image, (left, top), (right, bottom), color, cv2.FILLED)
    else:
        corners = np.array([(middle, top), (left, bottom), (right, bottom)])
        cv2.fillPoly(image, [corners], color)


def write_data(folder: Path) -> Path:
    """Draw all splits, write images, COCO JSON and the data set YAML; the YAML's path."""
    for number, (split, count) in enumerate(SPLITS.items()):
        rng = np.random.default_rng(number)
        (folder / split).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for index in range(count):
            image, objects = draw_scene(rng)
            name = f"{index:05}.png"
            cv2.imwrite(str(folder / split / name), image)
            images.append({"id": index + 1, "file_name": name, "width": SIZE, "height": SIZE})
            for kind, x1, y1, x2, y2 in objects.tolist():
                width, height = x2 - x1, y2 - y1
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": int(kind),
                        "bbox": [x1, y1, width, height],
                        "area": width * height,
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(document))
    yaml = folder / "data.yaml"
    yaml.write_text(
        "path: .\ntrain: train\nval: val\n"
        "annotations: {train: train.json, val: val.json}\n"
        f"names: [{', '.join(CLASSES)}]\n"
    )
    return yaml


class _Raw(nn.Module):
    """In place of the decode while training: the head's maps as they are."""

    def forward(self, regressions: list[Tensor], logits: list[Tensor]) -> tuple[Tensor, Tensor]:
        flat = [torch.cat([m.flatten(2) for m in maps], 2) for maps in (regressions, logits)]
        return flat[0].transpose(1, 2), flat[1].transpose(1, 2)  # [B, N, 4], [B, N, nc]


def anchors() -> tuple[Tensor, Tensor]:
    """Grid centres [N, 2] in pixels and strides [N], levels in order."""
    centers, strides = [], []
    for stride in STRIDES:
        axis = (torch.arange(SIZE // stride) + 0.5) * stride
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        centers.append(torch.stack([x.flatten(), y.flatten()], 1))
        strides.append(torch.full((len(axis) ** 2,), float(stride)))
    return torch.cat(centers), torch.cat(strides)


def assign(objects: Tensor, centers: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
    """Objects [n, 5] -> per grid cell its class [N] (-1: none) and box [N, 4].

    A cell belongs to an object of its level if its centre lies near the object's.
    """
    classes = torch.full((len(centers),), -1)
    boxes = torch.zeros(len(centers), 4)
    for kind, *corners in objects.tolist():
        x1, y1, x2, y2 = corners
        level = sum(x2 - x1 > limit for limit in LEVEL_LIMITS_PX)
        middle = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2])
        near = ((centers - middle).abs().amax(1) < 1.2 * strides) & (strides == STRIDES[level])
        classes[near] = int(kind)
        boxes[near] = torch.tensor(corners)
    return classes, boxes


def detection_loss(
    sides: Tensor, logits: Tensor, classes: Tensor, boxes: Tensor, grid: tuple[Tensor, Tensor]
) -> Tensor:
    """Focal loss on the scores plus generalized IoU loss on the boxes of assigned cells."""
    positive = classes >= 0  # [B, N]
    count = positive.sum().clamp(min=1)
    target = functional.one_hot(classes.clamp(min=0), len(CLASSES)) * positive[..., None]
    entropy = functional.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    miss = (target - logits.sigmoid()).abs()
    scores_loss = (miss**2 * entropy).sum() / count
    centers, strides = (each.expand(len(sides), *each.shape)[positive] for each in grid)
    reach = sides[positive] * strides[:, None]
    found = torch.cat([centers - reach[:, :2], centers + reach[:, 2:]], 1)
    return scores_loss + 2 * (1 - generalized_iou(found, boxes[positive])).sum() / count


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """[n, 4] corners each -> [n]; arXiv 1902.09630."""
    top_left = torch.max(first[:, :2], second[:, :2])
    shared = (torch.min(first[:, 2:], second[:, 2:]) - top_left).clamp(min=0).prod(1)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(1) for box in (first, second)]
    union = areas[0] + areas[1] - shared + 1e-6
    hull = torch.max(first[:, 2:], second[:, 2:]) - torch.min(first[:, :2], second[:, :2])
    hull_area = hull.clamp(min=0).prod(1) + 1e-6
    return shared / union - (hull_area - union) / hull_area


def train(data: Path, *, epochs: int) -> YOLOv6:
    """A YOLOv6-N trained from scratch on the drawn scenes."""
    torch.manual_seed(0)
    model = build(official("yolov6n", class_count=len(CLASSES)))
    for predictor in model.detect.cls_preds:
        nn.init.constant_(predictor.bias, -4.0)
    for predictor in model.detect.reg_preds:
        nn.init.constant_(predictor.bias, 1.5)
    decode, model.detect.decode = model.detect.decode, _Raw()
    grid = anchors()
    images, classes, boxes = load_training_set(data, grid)
    batch = 16
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    model.train()
    for _ in track(range(steps), description="training"):
        chosen = torch.randint(len(images), (batch,))
        sides, logits = model(images[chosen].float() / 255)
        loss = detection_loss(sides, logits, classes[chosen], boxes[chosen], grid)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    model.detect.decode = decode
    return model.eval()


def load_training_set(data: Path, grid: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """All training images uint8 [n, 3, H, W] RGB with their assigned classes and boxes."""
    document = json.loads((data.parent / "train.json").read_text())
    objects: dict[int, list[list[float]]] = {image["id"]: [] for image in document["images"]}
    for item in document["annotations"]:
        x, y, width, height = item["bbox"]
        objects[item["image_id"]].append([item["category_id"], x, y, x + width, y + height])
    images, classes, boxes = [], [], []
    for image in document["images"]:
        pixels = cv2.imread(str(data.parent / "train" / image["file_name"]))
        images.append(torch.from_numpy(pixels[..., ::-1].transpose(2, 0, 1).copy()))
        cell_classes, cell_boxes = assign(torch.tensor(objects[image["id"]]), *grid)
        classes.append(cell_classes)
        boxes.append(cell_boxes)
    return torch.stack(images), torch.stack(classes), torch.stack(boxes)


def run(*arguments: str | Path) -> None:
    """Show and run a detq command as a user would type it."""
    print("\n$ detq", *arguments, flush=True)
    command = [sys.executable, "-c", "from detq.cli import main; main()", *map(str, arguments)]
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    started = time.monotonic()
    folder: Path = arguments.output
    print("drawing scenes of discs, squares and triangles …", flush=True)
    data = write_data(folder / "scenes")
    model = train(data, epochs=arguments.epochs)
    spec = ModelSpec("shapes_yolov6n", "yolov6", CLASSES, STRIDES, (SIZE, SIZE))
    fused = fuse_model(FloatModel(model, spec))
    float_directory = folder / "shapes_yolov6n_openvino_model"
    write_artifact(from_torch(fused.module, fused.spec), float_directory)
    int8_directory = folder / "shapes_yolov6n_int8_openvino_model"
    compare = ("--compare", "minmax", "--compare", "nncf")
    run("quantize", float_directory, "--data", data, *compare, "--output", int8_directory)
    run("bench", float_directory, int8_directory)
    run("predict", int8_directory, folder / "scenes" / "samples", "--output", folder / "pictures")
    print(f"\nDone in {time.monotonic() - started:.0f} s. Look at {folder / 'pictures'}.")


if __name__ == "__main__":
    main()
