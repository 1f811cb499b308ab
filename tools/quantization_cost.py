"""Wall time and peak memory of ``detq quantize`` beside ``nncf.quantize``: same graph, same images.

    python tools/quantization_cost.py IMAGES --model yolov6s --imgsz 640 --images 300 --rounds 3

IMAGES is a folder (searched with its subfolders). The network has random weights and BatchNorm
statistics of those images: time and memory do not depend on what was learned. Each run is a fresh
process; the two tools take turns, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from detq.adapters import FloatModel, fuse_model
from detq.artifact import read_artifact, write_artifact
from detq.data.images import list_images, read_image_bgr
from detq.data.letterbox import Preprocess
from detq.graph.convert import from_torch
from detq.models import build, official
from detq.records import ModelSpec, placeholder_names

WARM_UP_IMAGES = 8


def write_random_model(name: str, size: int, images: list[Path], directory: Path) -> None:
    """A float exported directory of an official architecture with random weights."""
    torch.manual_seed(0)
    architecture = official(name, class_count=80)
    network = build(architecture)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # average over all that passes
    preprocess = Preprocess((size, size))
    batch = [preprocess.apply(read_image_bgr(path))[0] for path in images[:WARM_UP_IMAGES]]
    with torch.no_grad():
        network.train()(torch.cat([torch.from_numpy(image) for image in batch]))
    names = placeholder_names(80)
    spec = ModelSpec(name, "yolov6", names, architecture.strides, (size, size))
    fused = fuse_model(FloatModel(network.eval(), spec))
    write_artifact(from_torch(fused.module, fused.spec), directory)


def quantize_with_nncf(directory: Path, listing: Path) -> None:
    """What a user of NNCF would write: defaults, one image at a time."""
    import nncf  # noqa: PLC0415
    import openvino as ov  # noqa: PLC0415

    graph = read_artifact(directory)
    paths = [Path(line) for line in listing.read_text().splitlines()]
    preprocess = Preprocess(graph.spec.size_hw)
    dataset = nncf.Dataset(paths, lambda path: preprocess.apply(read_image_bgr(path))[0])
    model = nncf.quantize(graph.model, dataset, subset_size=len(paths))
    ov.save_model(model, directory.parent / "nncf.xml", compress_to_fp16=False)


def cost_of(*command: str | Path) -> tuple[float, float]:
    """Seconds of wall time and peak memory in GiB of a process that must succeed."""
    started = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command} failed with status {process.returncode}")
    return time.monotonic() - started, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="IMAGES")
    parser.add_argument("--model", default="yolov6s")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipe", default="cfws_kl")
    parser.add_argument("--nncf", nargs=2, type=Path, metavar="ARGUMENT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.nncf:
        quantize_with_nncf(*arguments.nncf)
        return
    paths = list(list_images(arguments.source))[: arguments.images]
    if len(paths) < arguments.images:
        sys.exit(f"{arguments.source} holds {len(paths)} images only, --images {arguments.images}")
    with tempfile.TemporaryDirectory() as folder:
        directory, listing = Path(folder) / "float_openvino_model", Path(folder) / "images.txt"
        write_random_model(arguments.model, arguments.imgsz, paths, directory)
        listing.write_text("\n".join(str(path.resolve()) for path in paths))
        data = Path(folder) / "data.yaml"
        names = list(placeholder_names(80))
        data.write_text(json.dumps({"train": "images.txt", "names": names}))  # JSON is YAML
        detq = (sys.executable, "-c", "from detq.cli import main; main()", "quantize", directory)
        options = ("--data", data, "--recipe", arguments.recipe, "--output", f"{folder}/int8")
        commands = {
            f"detq {arguments.recipe}": (*detq, *options, "--calib-images", arguments.images),
            "nncf.quantize": (
                sys.executable,
                __file__,
                arguments.source,
                "--nncf",
                directory,
                listing,
            ),
        }
        costs: dict[str, list[tuple[float, float]]] = {label: [] for label in commands}
        for _ in range(arguments.rounds):
            for label, command in commands.items():
                costs[label].append(cost_of(*command))
    print(f"{arguments.model} at {arguments.imgsz}, {arguments.images} images, medians:")
    for label, values in costs.items():
        seconds, memory = (statistics.median(each) for each in zip(*values, strict=True))
        print(f"  {label:18} {seconds:7.1f} s {memory:6.2f} GiB peak")


if __name__ == "__main__":
    main()
