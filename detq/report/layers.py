"""What quantization does to each convolution's weights, and what a user can read off a model."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from detq.errors import GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import CONVOLUTIONS, constant_value, nodes_of_type, part_of, producer
from detq.quant.cfws import (
    center_to_surround_ratio,
    cfws_sqnr_db,
    plain_sqnr_db,
    split_center,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    if not kernels or nodes_of_type(graph.model, "FakeQuantize"):
        raise GraphError(
            f"{graph.spec.name}: its weights are already quantized; inspect the float model"
        )
    return kernels


def weight_histograms_png(graph: DetectorGraph, *, layers: int = 12) -> bytes:
    """A picture of the layers with the largest centre-to-surround ratio, before and after.

    Per layer three histograms on a logarithmic count: centre taps, their neighbours, and what the
    split leaves of the centre in the fine kernel.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    kernels = {n: k for n, k in convolution_kernels(graph).items() if k.shape[-2:] != (1, 1)}
    ranked = sorted(kernels, key=lambda name: -center_to_surround_ratio(kernels[name]))[:layers]
    columns = min(3, max(1, len(ranked)))
    rows = max(1, -(-len(ranked) // columns))
    figure = Figure(figsize=(4.6 * columns, 2.6 * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(ranked) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, ranked, strict=False):
        _draw_layer(axis, name, kernels[name])
    figure.supxlabel("weight")
    figure.supylabel("taps")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()


def _draw_layer(axis: Axes, name: str, kernels: npt.NDArray[np.float32]) -> None:
    row, column = kernels.shape[2] // 2, kernels.shape[3] // 2
    neighbours = np.delete(
        kernels.reshape(*kernels.shape[:2], -1), row * kernels.shape[3] + column, 2
    )
    residual = split_center(kernels).fine[:, :, row, column]
    limit = float(np.abs(kernels).max()) or 1.0
    bins = np.linspace(-limit, limit, 121).tolist()
    series = (
        ("centre tap", kernels[:, :, row, column], "#c2410c"),
        ("eight neighbours", neighbours, "#1d4ed8"),
        ("centre after the split", residual, "#15803d"),
    )
    for label, values, color in series:
        axis.hist(values.ravel(), bins, histtype="step", log=True, label=label, color=color)
    ratio = center_to_surround_ratio(kernels)
    axis.set_title(f"{name}  ({ratio:.0f}x)", fontsize=8)
    axis.tick_params(labelsize=7)
