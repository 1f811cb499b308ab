"""The machine that speed is measured on: its CPU, how busy it is, and its measured INT8 peak."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from detq.cores import core_count
from detq.graph.execute import compile_for, core
from detq.records import Machine
from detq.runtime.devices import AUTO, CPU, NPU, full_name
from detq.runtime.layer_times import profiled_request
from detq.runtime.options import FloatPrecision

FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_int8": "AMX",
    "asimddp": "dot product",
    "i8mm": "I8MM",
}
"""Flags of /proc/cpuinfo that decide how fast INT8 is, and its float, from slow to fast."""


class _Held(NamedTuple):
    """The :data:`FEATURES` and the floats of 16 bits that are left."""

    features: frozenset[str]
    floats: tuple[FloatPrecision, ...] = ()


_AVX2 = frozenset({"AVX2"})
_AVX512 = _AVX2 | {"AVX-512"}
_VNNI = _AVX512 | {"AVX-512 VNNI"}
_HELD: dict[str, _Held] = {
    "SSE41": _Held(frozenset()),
    "AVX": _Held(frozenset()),
    "AVX2": _Held(_AVX2),
    "AVX2_VNNI": _Held(_AVX2 | {"AVX-VNNI"}),
    "AVX2_VNNI_2": _Held(_AVX2 | {"AVX-VNNI"}, ("bf16", "f16")),
    "AVX512_CORE": _Held(_AVX512),
    "AVX512_CORE_VNNI": _Held(_VNNI),
    "AVX512_CORE_BF16": _Held(_VNNI | {"AVX-512 BF16"}, ("bf16",)),
    "AVX512_CORE_FP16": _Held(_VNNI | {"AVX-512 BF16"}, ("bf16", "f16")),
}
"""What older instructions than its own leave of a CPU, by what oneDNN may be told
(``ONEDNN_MAX_CPU_ISA``); OpenVINO goes on naming what the CPU could."""
_CPUINFO = Path("/proc/cpuinfo")
_CHANNELS, _SIDE = 512, 64
_ROUNDS = 15


def describe_machine(
    *, threads: int | None = None, device: str = CPU, cpuinfo: Path = _CPUINFO
) -> Machine:
    """Measures the INT8 peak, which takes about a second."""
    load = load_average()  # before this process adds to it
    cores = core_count()
    return Machine(
        cpu=cpu_name(cpuinfo),
        features=cpu_features(cpuinfo),
        cores=cores,
        threads=threads or cores,
        load=load,
        int8_macs_per_s=_int8_peak(threads),
        device=device if device in {CPU, AUTO} else f"{device}, {full_name(device)}",
    )


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
    """What the processor calls itself."""
    return _fields(cpuinfo).get("model name") or platform.processor() or platform.machine()


def cpu_features(cpuinfo: Path = _CPUINFO) -> tuple[str, ...]:
    """Its instructions that INT8 depends on, by their names in :data:`FEATURES`.

    Of one that is held to older ones (``ONEDNN_MAX_CPU_ISA``) those that are left.
    """
    fields, held = _fields(cpuinfo), _held()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return tuple(
        name
        for flag, name in FEATURES.items()
        if flag in flags and (held is None or name in held.features)
    )


def _held() -> _Held | None:
    """What the environment leaves; None if that is all."""
    names = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    return _HELD.get(next((os.environ[name] for name in names if name in os.environ), "").upper())


def _fields(cpuinfo: Path) -> dict[str, str]:
    """Of the first processor that /proc/cpuinfo lists; none where there is no such file."""
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    return {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in reversed(text.splitlines()))
    }


def float_precisions(device: str = CPU) -> tuple[FloatPrecision, ...]:
    """Those that a device has instructions for; float32 first, but for an NPU, which has none.

    On a CPU that is held to older instructions, by ``ONEDNN_MAX_CPU_ISA`` or a virtual machine,
    OpenVINO names some that it has no kernels for, or computes in float32 with more work.
    """
    if device == NPU:
        return ("f16",)
    capable = core().get_property(device, "OPTIMIZATION_CAPABILITIES")
    more: tuple[tuple[str, FloatPrecision], ...] = (("BF16", "bf16"), ("FP16", "f16"))
    stated = [precision for name, precision in more if name in capable]
    if device == CPU:
        held = _held()
        left = stated if held is None else [each for each in stated if each in held.floats]
        stated = [each for each in left if _compiles_in(each)]
    return ("f32", *stated)


@cache
def _compiles_in(precision: FloatPrecision) -> bool:
    image = ops.parameter([1, 16, 8, 8], np.float32)
    weights = ops.constant(np.ones((16, 16, 3, 3), np.float32))
    convolution = ops.convolution(image, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    model = ov.Model([ops.result(convolution)], [image], "probe")
    try:
        compile_for(CPU, model, {"INFERENCE_PRECISION_HINT": precision})
    except RuntimeError:
        return False
    return True


def load_average() -> float | None:
    """The average number of busy processes in the last minute; None where nobody counts them."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows; a container without /proc
        return None


def _int8_peak(threads: int | None) -> float:
    """Multiply-accumulates per second of one large pointwise convolution in INT8, at its best."""
    image = ops.parameter([1, _CHANNELS, _SIDE, _SIDE], np.float32)
    above: ov.Node = image
    for _ in range(3):  # the middle one reads and writes INT8
        weight = np.random.default_rng(0).normal(size=(_CHANNELS, _CHANNELS, 1, 1))
        bound = float(np.abs(weight).max())
        kernel = _rounded(ops.constant(weight.astype(np.float32)), -bound, bound, levels=255)
        above = ops.convolution(
            _rounded(above, 0.0, 255.0, levels=256), kernel, [1, 1], [0, 0], [0, 0], [1, 1]
        )
        above = ops.relu(above)
    model = ov.Model([ops.result(ops.reduce_max(above, ops.constant([2, 3])))], [image], "peak")
    request = profiled_request(model, threads)
    data = np.random.default_rng(0).random((1, _CHANNELS, _SIDE, _SIDE), np.float32)
    seconds = []
    for _ in range(_ROUNDS):
        request.infer([data], share_inputs=True)
        seconds += [
            layer.real_time.total_seconds()
            for layer in request.profiling_info
            if layer.node_type == "Convolution"
        ]
    fastest = float(np.percentile(seconds, 10))
    return _CHANNELS**2 * _SIDE**2 / fastest


def _rounded(node: ov.Node, low: float, high: float, *, levels: int) -> ov.Node:
    ends = [ops.constant(np.float32(end)) for end in (low, high, low, high)]
    return ops.fake_quantize(node, *ends, levels)
