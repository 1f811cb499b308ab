"""``report.html``: what was quantized, how, and what it cost, in one self-contained file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jinja2

from detq.data.dataset import Split
from detq.graph.detector_graph import DetectorGraph
from detq.quant.noise import TensorNoise
from detq.records import EvalResult, is_busy
from detq.report.accuracy import ROWS_SHOWN, accuracy_view
from detq.report.disagreement import Difference
from detq.report.figures import (
    ObservedTensor,
    noise_svg,
    ranges_svg,
    short_name,
    weight_histograms_svg,
)
from detq.report.layers import layer_reports
from detq.report.words import Words

TENSORS_SHOWN = 4


@dataclass(frozen=True)
class Evidence:
    """What a report shows beside the metadata: agreement is that on ``judged`` images, and
    ``disagreements`` are the worst of ``examples``.
    """

    noise: Sequence[TensorNoise]
    tensors: Sequence[ObservedTensor]
    disagreements: Sequence[Difference]
    judged: int
    examples: Split


def render_report(
    float_graph: DetectorGraph,
    details: Mapping[str, Any],
    evidence: Evidence,
    words: Words,
    *,
    scores: Sequence[EvalResult] = (),
) -> str:
    """The page for an exported directory whose ``detq`` metadata section is ``details``.

    Weights are those of the float graph, ``scores`` those of the float model first and of the INT8
    model last. Everything from outside is escaped.
    """
    noise = {tensor.name: tensor.sqnr_db for tensor in evidence.noise}
    steepest = sorted(_drops(evidence.noise), key=lambda pair: -pair[1])[:3]
    shown = [tensor for tensor in evidence.tensors if tensor.name in noise]
    shown = sorted(shown, key=lambda tensor: noise[tensor.name])[:TENSORS_SHOWN]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("detq.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(
        name=float_graph.spec.name,
        words=words,
        metric=words.metrics[0][0],
        metrics=words.metrics,
        measured=_measured(details.get("measured"), words.metrics[0][1]),
        agreement=details["agreement_with_float"],
        judged=evidence.judged,
        held_back=details["agreement_images_held_back"],
        size_mb=details.get("size_mb"),
        accuracy=accuracy_view(scores),
        rows_shown=ROWS_SHOWN,
        noise_picture=noise_svg(evidence.noise) if noise else None,
        noise=noise,
        steepest=[(short_name(name), drop) for name, drop in steepest],
        range_picture=ranges_svg(shown) if shown else None,
        disagreements=[
            (each, base64.b64encode(each.picture.jpeg).decode()) for each in evidence.disagreements
        ],
        examples=evidence.examples,
        mixed=details["mixed_precision"],
        guard=details["guard"],
        short_name=short_name,
        int8_share=details["int8_share_of_convolution_macs"],
        recipe=details["recipe"],
        split_layers=set(details["split_layers"]),
        split_count=len(details["split_layers"]),
        biases=details["biases_corrected"],
        calibration=details["calibration"],
        picture=weight_histograms_svg(float_graph, layers=6),
        layers=layer_reports(float_graph),
        activations=details["activations"],
        number=_number,
        difference=_difference,
    )


def _measured(measured: Mapping[str, Any] | None, key: str) -> dict[str, Any] | None:
    """With the score of the first model (float) and of the last (the one exported) by name, and
    whether others used the machine.
    """
    if measured is None:
        return None
    found = [scores[key] for scores in measured["models"].values()]
    busy = is_busy(measured.get("load"), measured.get("cores") or 1)
    return {**measured, "first": found[0], "last": found[-1], "is_busy": busy}


def _drops(noise: Sequence[TensorNoise]) -> list[tuple[str, float]]:
    """How many dB each tensor is below the one before it in its part, the image left out."""
    return [
        (after.name, before.sqnr_db - after.sqnr_db)
        for before, after in pairwise(noise[1:])
        if before.part == after.part
    ]


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _difference(first: float | None, last: float | None) -> str:
    return "–" if first is None or last is None else f"{last - first:+.2f}"
