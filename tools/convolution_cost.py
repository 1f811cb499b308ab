"""What an INT8 convolution takes by what follows it, and by how many channels it has.

    python tools/convolution_cost.py
    ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI python tools/convolution_cost.py

A minimal reproducer for what OpenVINO's kernels make of SiLU, and of widths between those that AMX
multiplies at once. Chains of eight equal 3x3 convolutions with signed 8-bit inputs; the chains of a
table take turns, and a figure is the median over rounds of what OpenVINO says that they took.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from detq.runtime.layer_times import profiled_request
from detq.runtime.machine import cpu_features, cpu_name

DEPTH = 8
ACTIVATIONS: Mapping[str, Callable[[ov.Node], ov.Node]] = {
    "none": lambda node: node,
    "ReLU": ops.relu,
    "hard swish": ops.hswish,
    "SiLU": ops.swish,
    "GELU": lambda node: ops.gelu(node, "tanh"),
    "hard sigmoid": lambda node: ops.hard_sigmoid(node, np.float32(1 / 6), np.float32(0.5)),
    "sigmoid": ops.sigmoid,
    "tanh": ops.tanh,
}
SHAPES = ((64, 80), (128, 40), (256, 20))
WIDTHS = (16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
WIDTHS_AT = 40


def chain(channels: int, side: int, activation: str) -> ov.InferRequest:
    """Compiled for one image at a time."""
    image = ops.parameter([1, channels, side, side], np.float32)
    draw = np.random.default_rng(0)
    value: ov.Node = image
    for _ in range(DEPTH):
        weights = draw.integers(-127, 128, (channels, channels, 3, 3), np.int8)
        scale = np.full((channels, 1, 1, 1), 1 / (127 * 3 * channels**0.5), np.float32)
        kernel = ops.multiply(ops.convert(ops.constant(weights), "f32"), ops.constant(scale))
        convolved = ops.convolution(_grid(value), kernel, [1, 1], [1, 1], [1, 1], [1, 1])
        value = ACTIVATIONS[activation](convolved)
    return profiled_request(ov.Model([ops.result(_grid(value))], [image], "chain"), None)


def _grid(value: ov.Node) -> ov.Node:
    """Signed, 256 steps."""
    low, high = (ops.constant(np.float32(end)) for end in (-4, 4 * 127 / 128))
    return ops.fake_quantize(value, low, high, low, high, 256)


def microseconds(
    chains: Sequence[tuple[int, int, str]], rounds: int
) -> dict[tuple[int, int, str], float]:
    """Of one convolution of each chain, in turns."""
    requests = {key: chain(*key) for key in chains}
    times = {key: np.zeros(rounds) for key in chains}
    for number in range(-3, rounds):
        for key, request in requests.items():
            image = request.get_input_tensor(0)
            request.infer([image])
            layers = [layer for layer in request.profiling_info if layer.node_type == "Convolution"]
            if number >= 0:
                times[key][number] = sum(layer.real_time.total_seconds() for layer in layers)
    return {key: float(np.median(values)) * 1e6 / DEPTH for key, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    print(f"{cpu_name()} ({', '.join(cpu_features())}), OpenVINO {ov.__version__}\n")
    found = microseconds(
        [(*shape, kind) for kind in ACTIVATIONS for shape in SHAPES], arguments.rounds
    )
    print("| microseconds |", " | ".join(f"{c} channels at {side}" for c, side in SHAPES), "|")
    print("|---" * (1 + len(SHAPES)), end="|\n")
    for kind in ACTIVATIONS:
        print(f"| {kind} |", " | ".join(f"{found[(*shape, kind)]:.0f}" for shape in SHAPES), "|")
    found = microseconds([(c, WIDTHS_AT, "ReLU") for c in WIDTHS], arguments.rounds)
    print(f"\n| channels at {WIDTHS_AT}, ReLU | microseconds | GMAC/s |\n|---|---|---|")
    for (channels, side, _), time_us in found.items():
        print(f"| {channels} | {time_us:.0f} | {9 * (channels * side) ** 2 / time_us / 1e3:.0f} |")


if __name__ == "__main__":
    main()
