"""Pictures of a report: weights, where noise comes in, and what the ranges cover.

In a page they are SVG without a background, whose text and axes have the colour of the page's text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from detq.config import RangesConfig
from detq.graph.detector_graph import DetectorGraph
from detq.numerics.cfws import center_to_surround_ratio, split_center
from detq.numerics.histogram import ActivationStatistics
from detq.numerics.ranges import THRESHOLDS, choose_range
from detq.quant.noise import TensorNoise
from detq.records import Part
from detq.report.layers import convolution_kernels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREEN, ORANGE, GREY = "#4f83e6", "#2f9e5b", "#d9622b", "#8b9ab0"
"""To be told apart on white and on black."""
PART_COLORS: dict[str, str] = {"backbone": BLUE, "neck": GREEN, "head": ORANGE}
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


def noise_svg(noise: Sequence[TensorNoise]) -> Markup:
    """SQNR against float of every tensor that is rounded, in the order of execution."""
    figure = _empty_figure(9, 2.8)
    axis = figure.subplots()
    for part, color in PART_COLORS.items():
        places = [index for index, tensor in enumerate(noise) if tensor.part == part]
        heights = [min(noise[index].sqnr_db, 60.0) for index in places]
        axis.bar(places, heights, color=color, label=part, width=0.8)
    axis.set_ylabel("SQNR, dB")
    axis.set_xlabel("tensors from image to head")
    axis.grid(axis="y", alpha=0.3)
    axis.legend(frameon=False, ncols=3, loc="upper right", fontsize=8)
    return _svg(figure)


def ranges_svg(tensors: Sequence[ObservedTensor]) -> Markup:
    """Histograms of some tensors, with the range chosen and what each rule would have chosen."""
    figure, axes = _grid(len(tensors), columns=2, width=4.8, height=2.5)
    for axis, tensor in zip(axes, tensors, strict=True):
        _draw_tensor(axis, tensor)
    _share_legend(figure, axes, ncols=4)
    return _svg(figure)


def weight_histograms_png(graph: DetectorGraph, *, layers: int = 12) -> bytes:
    """:func:`_weight_histograms` as a file of its own."""
    picture = io.BytesIO()
    _weight_histograms(graph, layers).savefig(picture, format="png", dpi=_DPI)
    return picture.getvalue()


def weight_histograms_svg(graph: DetectorGraph, *, layers: int) -> Markup:
    """:func:`_weight_histograms` inside a page."""
    return _svg(_weight_histograms(graph, layers))


def _weight_histograms(graph: DetectorGraph, layers: int) -> Figure:
    """A picture of the layers with the largest centre-to-surround ratio, before and after.

    Per layer three histograms on a logarithmic count: centre taps, their neighbours, and what the
    split leaves of the centre in the fine kernel.
    """
    kernels = {n: k for n, k in convolution_kernels(graph).items() if k.shape[-2:] != (1, 1)}
    ranked = sorted(kernels, key=lambda name: -center_to_surround_ratio(kernels[name]))[:layers]
    figure, axes = _grid(len(ranked), columns=3, width=4.6, height=2.6)
    for axis, name in zip(axes, ranked, strict=True):
        _draw_layer(axis, name, kernels[name])
    figure.supxlabel("weight")
    figure.supylabel("taps")
    _share_legend(figure, axes, ncols=3)
    return figure


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
    axis.hist(values, bins.tolist(), weights=counts, log=True, color=GREY)
    colors = (ORANGE, BLUE, GREEN, "#9061e8", "#1c93ad", "#b5861b")
    config = RangesConfig()
    for rule, color in zip(THRESHOLDS, colors, strict=True):
        found = choose_range(seen, rule, config, symmetric=False)
        axis.axvline(found.high, color=color, linewidth=1, linestyle=":", label=rule)
    if tensor.low is not None and tensor.high is not None:
        axis.axvspan(tensor.low, tensor.high, color=GREEN, alpha=0.2, label="chosen")
    title = f"{short_name(tensor.name)}  ({tensor.method})"
    axis.set_title(title[-64:], fontsize=8, parse_math=False)
    axis.tick_params(labelsize=7)


def _draw_layer(axis: Axes, name: str, kernels: npt.NDArray[np.float32]) -> None:
    row, column = kernels.shape[2] // 2, kernels.shape[3] // 2
    neighbours = np.delete(
        kernels.reshape(*kernels.shape[:2], -1), row * kernels.shape[3] + column, 2
    )
    residual = split_center(kernels).fine[:, :, row, column]
    limit = float(np.abs(kernels).max()) or 1.0
    bins = np.linspace(-limit, limit, 121).tolist()
    series = (
        ("centre tap", kernels[:, :, row, column], ORANGE),
        ("eight neighbours", neighbours, BLUE),
        ("centre after the split", residual, GREEN),
    )
    for label, values, color in series:
        axis.hist(values.ravel(), bins, histtype="step", log=True, label=label, color=color)
    ratio = center_to_surround_ratio(kernels)
    axis.set_title(f"{name}  ({ratio:.0f}x)", fontsize=8, parse_math=False)
    axis.tick_params(labelsize=7)


def _grid(count: int, *, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` axes, each of that size in inches, and room for a legend above."""
    columns = min(columns, max(1, count))
    rows = max(1, -(-count // columns))
    figure = _empty_figure(width * columns, height * rows + 0.7)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def _share_legend(figure: Figure, axes: Sequence[Axes], *, ncols: int) -> None:
    """One legend above for all axes, which draw the same series."""
    handles, labels = axes[0].get_legend_handles_labels() if axes else ([], [])
    figure.legend(
        handles, labels, loc="outside upper center", ncols=ncols, frameon=False, fontsize=8
    )


def _empty_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> Markup:
    """To be put into HTML, where namespaces, declarations and a style for all pages are none."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import

    picture = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "detq"}):
        figure.savefig(
            picture, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = picture.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"| width="[\d.]+pt"| height="[\d.]+pt"', "", text)
    text = re.sub(r'(?<= d=)"[^"]*"', _hundredths, text)
    return Markup(text.replace("#000000", "currentColor"))  # noqa: S704 - matplotlib escapes names


def _hundredths(path: re.Match[str]) -> str:
    """Coordinates of a path to hundredths of a point, which are enough."""
    return re.sub(r"(\.\d{2})\d+", r"\1", path[0])
