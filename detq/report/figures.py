"""Pictures of a report, as PNG: where noise comes in, and what the ranges cover."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detq.config import RangeMethod, RangesConfig
from detq.quant.histogram import ActivationStatistics
from detq.quant.noise import TensorNoise
from detq.quant.ranges import THRESHOLDS, choose_range
from detq.records import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PART_COLORS: dict[str, str] = {"backbone": "#1d4ed8", "neck": "#15803d", "head": "#c2410c"}
_DPI = 110


@dataclass(frozen=True)
class ObservedTensor:
    """What calibration saw of one tensor, and the ends of the grid it got; None if in float."""

    name: str
    part: Part
    method: str
    statistics: ActivationStatistics
    low: float | None
    high: float | None


def noise_png(noise: Sequence[TensorNoise]) -> bytes:
    """SQNR against float of every tensor that is rounded, in the order of execution."""
    figure, axis = _figure(9, 2.8)
    for part, color in PART_COLORS.items():
        places = [index for index, tensor in enumerate(noise) if tensor.part == part]
        heights = [min(noise[index].sqnr_db, 60.0) for index in places]
        axis.bar(places, heights, color=color, label=part, width=0.8)
    axis.set_ylabel("SQNR, dB")
    axis.set_xlabel("tensors from image to head")
    axis.grid(axis="y", alpha=0.3)
    axis.legend(frameon=False, ncols=3, loc="upper right", fontsize=8)
    return _png(figure)


def ranges_png(tensors: Sequence[ObservedTensor]) -> bytes:
    """Histograms of some tensors, with the range chosen and what each rule would have chosen."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    columns = min(2, max(1, len(tensors)))
    rows = max(1, -(-len(tensors) // columns))
    figure = Figure(figsize=(4.8 * columns, 2.5 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(tensors) :]:
        axis.set_axis_off()
    for axis, tensor in zip(axes.flat, tensors, strict=False):
        _draw_tensor(axis, tensor)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return _png(figure)


def short_name(name: str) -> str:
    """A quantizer's name without what every one of them has in common."""
    stem = name.removeprefix("__module.").split("/aten::")[0].split("/fq_")[0]
    return stem.strip("/")


def _draw_tensor(axis: Axes, tensor: ObservedTensor) -> None:
    seen = tensor.statistics
    edges = np.arange(len(seen.positive) + 1) * seen.bin_width
    centers = (edges[:-1] + edges[1:]) / 2
    values = np.concatenate([-centers[::-1], centers])
    counts = np.concatenate([seen.negative[::-1], seen.positive])
    bins = np.linspace(min(seen.low, 0.0), max(seen.high, seen.bin_width), 121)
    axis.hist(values, bins.tolist(), weights=counts, log=True, color="#94a3b8")
    colors = ("#c2410c", "#1d4ed8", "#15803d", "#7c3aed", "#0e7490", "#a16207")
    rules: list[RangeMethod] = [
        "kl_cfws",
        "kl_entropy",
        "mse",
        "percentile",
        "mean_minmax",
        "minmax",
    ]
    config = RangesConfig()
    for rule, color in zip(rules, colors, strict=True):
        if rule in THRESHOLDS:
            found = choose_range(seen, rule, config, symmetric=False)
            axis.axvline(found.high, color=color, linewidth=1, linestyle=":", label=rule)
    if tensor.low is not None and tensor.high is not None:
        axis.axvspan(tensor.low, tensor.high, color="#16a34a", alpha=0.15, label="chosen")
    title = f"{short_name(tensor.name)}  ({tensor.method})"
    axis.set_title(title[-64:], fontsize=8)
    axis.tick_params(labelsize=7)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI)
    return picture.getvalue()
