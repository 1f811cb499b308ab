"""How speed depends on image size and threads, float and INT8 in turns: a table for the docs.

    python tools/cost_curve.py IMAGES --model yolov6n --sizes 320 480 640 960 1280 --threads 1 2

IMAGES is a folder (searched with its subfolders) for BatchNorm statistics and calibration. The
network has random weights, and its ranges are plain: speed does not depend on what was learned.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from quantization_cost import write_random_model

from detq import api
from detq.data.images import list_images, read_images
from detq.data.letterbox import Preprocess
from detq.quant.quantizer import quantize_graph
from detq.runtime.machine import describe_machine
from detq.runtime.options import RuntimeOptions

CALIBRATION_IMAGES = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="IMAGES")
    parser.add_argument("--model", default="yolov6n")
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 480, 640, 960, 1280])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    paths = list(list_images(arguments.source))
    recipe = api.load_recipe("minmax").model_copy(update={"bias_correction": "none"})
    peaks = {threads: describe_machine(threads=threads) for threads in arguments.threads}
    print(f"{next(iter(peaks.values())).cpu}, {arguments.model}")
    print("| side px | threads | float ms | INT8 ms | speed-up | INT8 GMAC/s | of peak |")
    print("|---" * 7, end="|\n")
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / "float"
            write_random_model(arguments.model, size, paths, directory)
            graph = api.load(directory)
        preprocess = Preprocess((size, size))
        samples = [preprocess.apply(image)[0] for image in read_images(paths[:CALIBRATION_IMAGES])]
        int8 = quantize_graph(graph, recipe, lambda stage, count, seen=samples: iter(seen)).graph
        for threads, machine in peaks.items():
            *floats, rounded = api.bench(
                [graph, int8], rounds=arguments.rounds, options=RuntimeOptions(threads=threads)
            )
            exact = min(floats, key=lambda row: row.latency_ms)
            cells = [
                f"{size} | {threads} | {exact.latency_ms:.1f} | {rounded.latency_ms:.2f}",
                f"{rounded.speedup:.2f} | {rounded.macs_per_s / 1e9:.0f}",
                f"{100 * rounded.macs_per_s / machine.int8_macs_per_s:.0f}%",
            ]
            print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
