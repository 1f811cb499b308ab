"""Wall time and peak memory of detq's quantizer beside ``nncf.quantize``: same graph, same images.

    python tools/quantization_cost.py IMAGES --recipe cfws_kl --recipe cfws_mse --rounds 3

From a float IR on disk to an INT8 IR on disk. IMAGES is a folder (searched with its subfolders).
The network has random weights and BatchNorm statistics of those images: time and memory do not
depend on what was learned. Each run is a fresh process; the tools take turns, so that a busy
machine slows both. In each round the first recipe observes the images, the others find its
observations where they can use them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch import nn

from detq.adapters import FloatModel, fuse_model
from detq.api import load_recipe
from detq.artifact import read_artifact, write_artifact
from detq.data.calibration import readable_images
from detq.data.images import list_images, read_image_bgr
from detq.data.letterbox import Preprocess
from detq.graph.convert import from_torch
from detq.models import build, official
from detq.quant.observation_store import ObservationStore
from detq.quant.quantizer import quantize_graph
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


def quantize_with_detq(directory: Path, listing: Path, recipe: str) -> None:
    """The same with detq; observations are kept beside the graph."""
    import openvino as ov  # noqa: PLC0415

    graph = read_artifact(directory)
    paths = [Path(line) for line in listing.read_text().splitlines()]
    calibration = readable_images(paths, Preprocess(graph.spec.size_hw))
    store = ObservationStore(directory.parent / "observations", "these")
    quantized = quantize_graph(
        graph, load_recipe(recipe), lambda _, count: calibration.inputs(count), store=store
    )
    ov.save_model(quantized.graph.model, directory.parent / "detq.xml", compress_to_fp16=False)


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
    parser.add_argument("--recipe", action="append", help="may be repeated; cfws_kl by default")
    parser.add_argument("--one", nargs=3, metavar="ARGUMENT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        recipe, directory, listing = arguments.one[0], *map(Path, arguments.one[1:])
        if recipe == "nncf.quantize":
            quantize_with_nncf(directory, listing)
        else:
            quantize_with_detq(directory, listing, recipe)
        return
    paths = list(list_images(arguments.source))[: arguments.images]
    if len(paths) < arguments.images:
        sys.exit(f"{arguments.source} holds {len(paths)} images only, --images {arguments.images}")
    with tempfile.TemporaryDirectory() as folder:
        directory, listing = Path(folder) / "float_openvino_model", Path(folder) / "images.txt"
        write_random_model(arguments.model, arguments.imgsz, paths, directory)
        listing.write_text("\n".join(str(path.resolve()) for path in paths))
        own = (sys.executable, __file__, arguments.source)
        costs: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for _ in range(arguments.rounds):
            shutil.rmtree(Path(folder) / "observations", ignore_errors=True)
            for tool in ("nncf.quantize", *(arguments.recipe or ("cfws_kl",))):
                costs[tool].append(cost_of(*own, "--one", tool, directory, listing))
                print(f"{tool}: {costs[tool][-1][0]:.1f} s", file=sys.stderr, flush=True)
    print(f"{arguments.model} at {arguments.imgsz}, {arguments.images} images, medians:")
    for tool, values in costs.items():
        seconds, memory = (statistics.median(each) for each in zip(*values, strict=True))
        print(f"  {tool:18} {seconds:7.1f} s {memory:6.2f} GiB peak")


if __name__ == "__main__":
    main()
