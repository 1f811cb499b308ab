"""Where what `measured` takes from the output comes from, model by model, on images held back.

    python tools/zoo_error.py tools/zoo.yaml --root ../shared --only bccd_yolov6n

One row for each model of a zoo (tools/zoo.py): the output error of the INT8 network before it is
finished; with activations in float, so that rounded weights alone are left, and the same with
weights on grids that do not keep pairs of 16-bit sums from overflowing; with one part of the
network in float; with a larger budget for what falls back to float; with every zero point kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import openvino as ov
from zoo import results_of, zoo_parser
from zoo_measuring import Quantizer, Subject
from zoo_plan import Entry, Plan, read_plan

from detq.errors import DetqError
from detq.graph.execute import compile_exact
from detq.graph.layers import add_to_biases
from detq.graph.surgery import bypass, producer
from detq.numerics.output_error import output_error
from detq.quant.network import Image, Network, Stage
from detq.quant.passes.fall_back_to_float import FallBackToFloat
from detq.quant.passes.give_up_zero_points import GiveUpZeroPoints
from detq.quant.passes.round_weights import RoundWeights
from detq.quant.passes.set_weight_grids import SetWeightGrids
from detq.quant.pipeline import Pass
from detq.quant.quantizers import activation_nodes
from detq.quant.trial import TrialNetwork

IMAGES = 32
BUDGETS = (0.06, 0.12)
PARTS = ("backbone", "neck", "head")
HEADINGS = (
    *("all", "weights alone", "of these without the pair limit"),
    *(f"{part} in float" for part in PARTS),
    *(f"budget {budget:.0%}" for budget in BUDGETS),
    "zero points kept",
)


def main() -> None:
    parser = zoo_parser(__doc__)
    parser.add_argument("--only", action="append", metavar="MODEL", help="may be repeated")
    given = parser.parse_args()
    plan, unpacked = read_plan(given.config), results_of(given).folder
    print("| model |", " | ".join(HEADINGS), "|")
    print("|---|", "|".join("---" for _ in HEADINGS), "|", sep="")
    for entry in plan.models:
        if given.only and entry.label not in given.only:
            continue
        try:
            errors = _Errors(plan, entry, Subject(entry, plan, given.root, unpacked))
            print(f"| {entry.label} |", " | ".join(map("{:.3f}".format, errors.row())), "|")
        except DetqError as error:  # the other models go on
            print(f"{entry.label}: {error}", file=sys.stderr)


class _Errors:
    """Output errors of one model, against its float network."""

    def __init__(self, plan: Plan, entry: Entry, subject: Subject) -> None:
        self._quantizer = Quantizer(subject, plan.seeds[0])
        self._images = self._quantizer.held_back(IMAGES)
        self._expected = _outputs(subject.graph.model, self._images)
        passes = self._quantizer.passes("measured")
        self._passes = tuple(one for one in passes if one.stage < Stage.FINISHED)

    def row(self) -> list[float]:
        """By :data:`HEADINGS`."""
        network = self._network(self._passes)
        trial = TrialNetwork(network, self._images)
        in_float = (
            network.in_float.union(q.name for q in network.quantizers if q.part == part)
            for part in PARTS
        )
        budgets = [
            [replace(one, budget=each) if isinstance(one, FallBackToFloat) else one for one in own]
            for each, own in ((budget, self._passes) for budget in BUDGETS)
        ]
        return [
            self._error(network.model, network),
            self._weights_alone(self._passes),
            self._weights_alone(_without_pair_limit(self._passes)),
            *(float(trial.errors(network.ranges, names).mean()) for names in in_float),
            *(self._error_behind(own) for own in budgets),
            self._error_behind(
                [one for one in self._passes if not isinstance(one, GiveUpZeroPoints)]
            ),
        ]

    def _network(self, passes: Sequence[Pass]) -> Network:
        return self._quantizer.behind(tuple(passes))[0]

    def _error_behind(self, passes: Sequence[Pass]) -> float:
        network = self._network(passes)
        return self._error(network.model, network)

    def _weights_alone(self, passes: Sequence[Pass]) -> float:
        """Of the network behind the rounding of its weights, its activations in float."""
        last = max(n for n, one in enumerate(passes, start=1) if isinstance(one, RoundWeights))
        network = self._network(passes[:last])
        model = network.model.clone()
        for node in activation_nodes(model):
            if producer(node).get_type_name() != "Parameter":  # pixels lie on their grid
                bypass(node)
        return self._error(model, network)

    def _error(self, model: ov.Model, network: Network) -> float:
        corrected = model.clone()
        add_to_biases(corrected, network.bias_shifts)
        found = _outputs(corrected, self._images)
        return float(np.mean([*map(output_error, self._expected, found)]))


def _without_pair_limit(passes: Sequence[Pass]) -> list[Pass]:
    return [
        replace(one, limit_pairs=False) if isinstance(one, RoundWeights) else one
        for one in passes
        if not isinstance(one, SetWeightGrids)
    ]


def _outputs(model: ov.Model, images: Sequence[Image]) -> list[Image]:
    compiled = compile_exact(model)
    return [compiled(image)[0].copy() for image in images]


if __name__ == "__main__":
    main()
