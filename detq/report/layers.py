"""What quantization does to each convolution's weights, and what a user can read off a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detq.errors import GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import CONVOLUTIONS, constant_value, nodes_of_type, producer
from detq.numerics.cfws import (
    center_to_surround_ratio,
    cfws_sqnr_db,
    plain_sqnr_db,
)
from detq.records import part_of


@dataclass(frozen=True)
class LayerReport:
    """One convolution. ``shape`` is (O, I, kH, kW); signal-to-noise ratios are of the weights, in
    dB.

    ``cfws_db`` is None for a kernel without neighbours, which CFWS does not apply to.
    """

    name: str
    part: str
    shape: tuple[int, ...]
    reparameterized: bool
    center_to_surround: float
    plain_db: float
    cfws_db: float | None


def layer_reports(graph: DetectorGraph) -> list[LayerReport]:
    """One report per convolution with float weights, in execution order.

    Raises GraphError if the graph has none: an INT8 model no longer knows its float weights.
    """
    reparameterized = {conv.name for conv in graph.spec.reparameterized}
    reports = []
    for name, kernels in convolution_kernels(graph).items():
        spatial = kernels.shape[-2:] != (1, 1)
        reports.append(
            LayerReport(
                name=name,
                part=part_of(name) or "",
                shape=kernels.shape,
                reparameterized=name in reparameterized,
                center_to_surround=center_to_surround_ratio(kernels),
                plain_db=plain_sqnr_db(kernels),
                cfws_db=cfws_sqnr_db(kernels) if spatial else None,
            )
        )
    return reports


def convolution_kernels(graph: DetectorGraph) -> dict[str, npt.NDArray[np.float32]]:
    """Name -> float weights (O, I, kH, kW), groups joined with the output channels."""
    kernels = {}
    for node in nodes_of_type(graph.model, *CONVOLUTIONS):
        weight = constant_value(producer(node, 1))
        if weight is not None and weight.dtype.kind == "f":
            kernels[node.get_friendly_name()] = weight.reshape(-1, *weight.shape[-3:])
    if not kernels or graph.is_quantized:
        raise GraphError(
            f"{graph.spec.name}: its weights are already quantized; inspect the float model"
        )
    return kernels
