"""``report.html``: what was quantized, how, and what it cost, in one self-contained file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import jinja2

from detq.graph.detector_graph import DetectorGraph
from detq.report.layers import layer_reports, weight_histograms_png


def render_report(float_graph: DetectorGraph, details: Mapping[str, Any]) -> str:
    """The page for an exported directory whose ``detq`` metadata section is ``details``.

    Weights are those of the float graph. Everything from outside is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("detq.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(
        name=float_graph.spec.name,
        measured=_measured(details.get("measured")),
        agreement=details["agreement_with_float"],
        int8_share=details["int8_share_of_convolution_macs"],
        recipe=details["recipe"],
        split_layers=set(details["split_layers"]),
        split_count=len(details["split_layers"]),
        biases=details["biases_corrected"],
        calibration=details["calibration"],
        picture=base64.b64encode(weight_histograms_png(float_graph, layers=6)).decode(),
        layers=layer_reports(float_graph),
        activations=details["activations"],
        number=_number,
    )


def _measured(measured: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """With the mAP of the first model (float) and of the last (the one exported) by name."""
    if measured is None:
        return None
    maps = [scores["map"] for scores in measured["models"].values()]
    return {**measured, "first_map": maps[0], "last_map": maps[-1]}


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
