"""Top-1 on all 10,000 CIFAR-10 test images: float, plain INT8, weight splitting, the default.

    python tools/train_cifar10.py --network A --output runs/cifar10/repvgg_a.pth
    python tools/cifar10_accuracy.py runs/cifar10/repvgg_a.pth --json runs/cifar10/accuracy.json

Calibrates on training images. The images are unpacked once, to ``runs/cifar10/images``.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

import detq
from detq.api import load_recipe
from detq.config import Recipe
from detq.records import EvalResult
from detq.report.layers import layer_reports


def variant(name: str, label: str, *, tensor: bool = False, bias: str = "mean_error") -> Recipe:
    """A built-in recipe, with one step per weight tensor, or without bias correction."""
    recipe = load_recipe(name)
    granularity = "tensor" if tensor else "channel"
    weights = recipe.weights.model_copy(update={"granularity": granularity})
    changes = {"name": label, "weights": weights}
    if not recipe.ranges.only_placement:
        changes["bias_correction"] = bias
    return recipe.model_copy(update=changes)


def recipes() -> Mapping[str, Recipe]:
    """What is compared, under the names of the table."""
    rows = (
        variant("nncf", "nncf.quantize"),
        variant("minmax", "plain, per channel"),
        variant("minmax", "plain, per tensor", tensor=True),
        variant("minmax", "plain, per tensor, biases as they were", tensor=True, bias="none"),
        variant("cfws_kl", "CFWS + KL, per channel"),
        variant("cfws_kl", "CFWS + KL, per tensor", tensor=True),
        variant("measured", "default (measured)"),
    )
    return {row.name: row for row in rows}


def unpacked(source: Path, folder: Path) -> Path:
    """The images of both splits in one folder per class."""
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            with tarfile.open(source / f"{split}.tar") as tar:
                tar.extractall(folder, filter="data")
    return folder


def ratios(model: Path) -> str:
    """How far centre taps stand out of their neighbours, over all re-parameterized layers."""
    found = [
        row.center_to_surround for row in layer_reports(detq.load(model)) if row.reparameterized
    ]
    low, middle, high = np.percentile(found, (0, 50, 100))
    return f"centre/surround of {len(found)} layers: {low:.1f} to {high:.1f}, median {middle:.1f}"


def measure(model: Path, data: Path, chosen: list[str], images: int, seed: int) -> list[EvalResult]:
    """Float first, then every recipe; each line is printed when it is there."""
    print(f"{model}: {ratios(model)}", flush=True)
    exact = detq.load(model)
    rows = []
    for label in ("float", *chosen):
        graph, agreement = exact, None
        if label != "float":
            recipe = recipes()[label].model_copy(update={"seed": seed})
            result = detq.quantize(exact, data=data, recipe=recipe, calibration_images=images)
            graph, agreement = result.graph, result.agreement
        row = detq.evaluate(graph, data=data, split="test")
        rows.append(row)
        print(
            f"  {label:<40} top-1 {row.top1:6.2f} ({row.top1 - rows[0].top1:+.2f})  "
            f"top-5 {row.top5:6.2f}  {row.precision}  {row.size_mb:.2f} MB  "
            f"agreement {'-' if agreement is None else f'{agreement:.1f}'}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="CIFAR-10 accuracy of quantized classifiers.")
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/cifar10"))
    parser.add_argument("--folder", type=Path, default=Path("runs/cifar10/images"))
    parser.add_argument("--recipe", action="append", choices=list(recipes()))
    parser.add_argument("--calib-images", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="another one, other training images")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    chosen = given.recipe or list(recipes())
    data = unpacked(given.data, given.folder)
    document = {}
    for model in given.models:
        rows = measure(model, data, chosen, given.calib_images, given.seed)
        named = zip(("float", *chosen), rows, strict=True)
        document[str(model)] = {label: asdict(row) for label, row in named}
        if given.json is not None:
            given.json.write_text(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
