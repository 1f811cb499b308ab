"""Running a graph for its values rather than for speed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.cores import is_x86
from detq.graph.zero_points import restore_zero_points

Array = npt.NDArray[np.float32]


@cache
def core() -> ov.Core:
    """OpenVINO, one for the process.

    With each Core comes a CPU plugin, which lends its thread a stack for signals and takes it back
    (OpenVINO 2026.4). If two of them overlap, the thread can keep one that is gone, and the next
    signal ends the process.
    """
    return ov.Core()


def compile_exact(model: ov.Model, *, several: bool = False) -> ov.CompiledModel:
    """Compiled for the CPU so that what is not quantized computes in float32; for ``several``
    images at a time, or one.

    Left to itself, OpenVINO takes bfloat16 on machines with AMX.
    """
    hint = "THROUGHPUT" if several else "LATENCY"
    return compile_for("CPU", model, {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": hint})


def compile_for(device: str, model: ov.Model, properties: Mapping[str, Any]) -> ov.CompiledModel:
    """Compiled for one of OpenVINO's devices. Raises RuntimeError if it cannot be.

    Of zero points that were folded, OpenVINO (2026.4) compiles none for Arm, and is not known to
    for other devices: they are restored, which changes no output.
    """
    if device != "CPU" or not is_x86():
        model = model.clone()
        restore_zero_points(model)
    return core().compile_model(model, device, dict(properties))


def outputs_of(compiled: ov.CompiledModel, images: Iterable[Array]) -> Iterator[list[Array]]:
    """For each image (float32 [1, 3, H, W]) all outputs, in order.

    The network computes the next image while the caller works on this one's outputs, which are
    overwritten when the one after that is asked for: copy what is to be kept.
    """
    requests = [compiled.create_infer_request() for _ in range(2)]
    busy: ov.InferRequest | None = None
    try:
        for image in images:
            idle = requests.pop()
            idle.start_async({0: np.ascontiguousarray(image)})
            if busy is not None:
                yield _finished(busy)
                requests.append(busy)
            busy = idle
        if busy is not None:
            yield _finished(busy)
    finally:
        if busy is not None:
            busy.wait()


def _finished(request: ov.InferRequest) -> list[Array]:
    request.wait()
    return [tensor.data for tensor in request.output_tensors]
