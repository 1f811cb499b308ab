"""Write the card of a trained model, and the checksums of its folder.

    python tools/model_card.py weights/digits_yolov6n.safetensors --data runs/digits/data.yaml \
        --split test --training "tools/train_embedded.py …" --seed 0

measures float mAP, hashes the training images, and puts both beside the model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from detq import api
from detq.adapters import read_model
from detq.config import read_dataset
from detq.data.dataset import load_split
from detq.data.fingerprint import fingerprint
from detq.report.layers import layer_reports

MEASURES = ("map", "map50", "map75", "map_small", "map_medium", "map_large")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a model's card and its folder's checksums.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--data-command", required=True, help="what made the data set")
    parser.add_argument("--training", required=True, help="the training command")
    parser.add_argument("--licence", default="Apache-2.0")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    stored = read_model(arguments.model)
    graph = api.load(arguments.model)
    result = api.evaluate(graph, data=arguments.data, split=arguments.split)
    train = load_split(read_dataset(arguments.data), "train", with_annotations=False)
    ratios = [r.center_to_surround for r in layer_reports(graph) if r.reparameterized]
    card = {
        "name": arguments.model.stem,
        "architecture": asdict(stored.architecture),
        "classes": list(stored.class_names),
        "image_size_hw": list(stored.size_hw),
        "parameters": stored.parameter_count,
        "data": {
            "command": arguments.data_command,
            "training_images": len(train.images),
            "training_images_sha256": fingerprint(train.paths),
        },
        "training": {"command": arguments.training, "seed": arguments.seed},
        "float_map_percent": {
            "split": arguments.split,
            "images": result.images,
            **{name: round(getattr(result, name), 2) for name in MEASURES},
        },
        "centre_to_surround": {
            "convolutions": len(ratios),
            "median": round(float(np.median(ratios)), 2),
            "largest": round(max(ratios), 2),
        },
        "licence": arguments.licence,
    }
    text = json.dumps(card, indent=2, ensure_ascii=False)
    arguments.model.with_suffix(".json").write_text(f"{text}\n")
    write_checksums(arguments.model.parent)


def write_checksums(folder: Path) -> None:
    """``SHA256SUMS`` of every model file and its card, as ``sha256sum -c`` reads it."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json"))
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


if __name__ == "__main__":
    main()
