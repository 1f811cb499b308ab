"""Latency of a detector with its scores apart beside that of the same file's graph as it is.

    python tools/scores_apart.py MODEL...

Both take uint8 frames, by OpenVINO's PrePostProcessor. In turns, ratios pair by pair; the first
model's file is what all are compared with, for example `nncf.quantize`'s.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import openvino as ov

from detq import api
from detq.graph.detector_graph import DetectorGraph
from detq.graph.execute import compile_for
from detq.runtime.detector import executed, fed_with_pixels
from detq.runtime.options import RuntimeOptions

WARM_UP = 5


def requests_of(graph: DetectorGraph) -> dict[str, ov.InferRequest]:
    """By how it is compiled."""
    properties = RuntimeOptions(requests=1).properties()
    graphs = {"file": fed_with_pixels(graph.model), "apart": executed(graph)}
    return {
        how: compile_for("CPU", model, properties).create_infer_request()
        for how, model in graphs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    requests: dict[str, ov.InferRequest] = {}
    for model in arguments.models:
        compiled = requests_of(api.load(model))
        requests |= {f"{model}, {how}": request for how, request in compiled.items()}
    times_ms = np.zeros((arguments.rounds, len(requests)))
    for number in range(-WARM_UP, arguments.rounds):
        for column, request in enumerate(requests.values()):
            image = np.zeros(request.get_input_tensor(0).shape, np.uint8)
            started = time.perf_counter()
            request.infer([image], share_inputs=True)
            if number >= 0:
                times_ms[number, column] = (time.perf_counter() - started) * 1000
    ratios = np.median(times_ms / times_ms[:, :1], axis=0)
    for name, own, ratio in zip(requests, times_ms.T, ratios, strict=True):
        print(f"{np.median(own):8.2f} ms {ratio:6.3f}  {name}")


if __name__ == "__main__":
    main()
