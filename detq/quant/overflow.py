"""Weight grids on which the 16-bit sums of CPUs without VNNI cannot overflow.

Such a CPU (AVX2, first AVX-512) saturates where two neighbouring input channels have large weights
of one sign. NNCF's cure takes a bit from every weight; here a channel's step grows only as far as
its own worst pair of weights asks for (:data:`detq.numerics.cfws.PAIR_LIMIT`), and not at all where
no pair is that large. The INT8 model then computes the same on every CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.graph.surgery import (
    CONVOLUTIONS,
    constant_value,
    nodes_of_type,
    producer,
    replace_constant_input,
)
from detq.numerics.cfws import Granularity, weight_step

Array = npt.NDArray[np.float32]


def limit_weight_pairs(
    placed: ov.Model, coarse_steps: Mapping[str, Array], *, bits: int = 8
) -> None:
    """Widen the grids of quantized convolution weights where a pair could overflow.

    ``coarse_steps`` are the grids that coarse kernels (by the name of their convolution) were
    rounded to: these stay on them, and lose nothing. With fewer ``bits``, steps so large that the
    integers do not exceed these. Changes the model.
    """
    for convolution, quantizer in quantized_weights(placed):
        low = constant_value(producer(quantizer, 1))
        weight = constant_value(producer(quantizer, 0))
        if low is None or weight is None:
            continue
        step = coarse_steps.get(convolution.get_friendly_name())
        if step is None:
            kernels = np.asarray(weight, np.float32).reshape(-1, *weight.shape[-3:])
            granularity: Granularity = "tensor" if low.size == 1 else "channel"
            step = weight_step(kernels, granularity=granularity, bits=bits, limit_pairs=True)
        _write_step(quantizer, step.reshape(low.shape))


def _write_step(quantizer: ov.Node, step: Array) -> None:
    """Give a symmetric FakeQuantize of 255 levels a step; of 256, the lowest is one more."""
    levels = quantizer.get_attributes()["levels"]
    low, high = -(levels // 2) * step, (levels - 1 - levels // 2) * step
    for index, value in ((1, low), (2, high), (3, low), (4, high)):
        replace_constant_input(quantizer, index, value)


def quantized_weights(model: ov.Model) -> Iterator[tuple[ov.Node, ov.Node]]:
    """Every convolution of the model with quantized weights, and their FakeQuantize."""
    for convolution in nodes_of_type(model, *CONVOLUTIONS):
        quantizer = producer(convolution, 1)
        if quantizer.get_type_name() == "FakeQuantize":
            yield convolution, quantizer
