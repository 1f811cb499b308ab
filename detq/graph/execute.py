"""Running a graph for its values rather than for speed."""

from __future__ import annotations

import openvino as ov


def compile_exact(model: ov.Model) -> ov.CompiledModel:
    """Compiled for the CPU so that what is not quantized computes in float32.

    Left to itself, OpenVINO takes bfloat16 on machines with AMX.
    """
    return ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
