"""Where what `measured` takes from the output comes from, model by model, on images held back.

    python tools/zoo_error.py tools/zoo.yaml --root ../shared --only bccd_yolov6n

One row for each model of a zoo (tools/zoo.py): the output error of the INT8 network before it is
finished; with activations in float, so that rounded weights alone are left, and the same with
weights on grids that do not keep pairs of 16-bit sums from overflowing; with one part of the
network in float; with a larger budget for what falls back to float; with every zero point kept.
With ``--tensors`` the five tensors that bring most of the output error in float, chosen on 16 of
the images, and what they bring there and on 16 others.
With ``--map`` what each of these networks loses on the test split, in points of mAP or of top-1,
with the 95% interval of the bootstrap over its images, paired with float.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import openvino as ov
from zoo import errors_in_one_line, results_of, zoo_parser
from zoo_measuring import Quantizer, Subject
from zoo_plan import read_plan
from zoo_table import markdown_head, markdown_row, points_lost

from detq.api import DetectorGraph
from detq.errors import DetqError
from detq.graph.execute import compile_exact
from detq.graph.layers import add_to_biases
from detq.graph.surgery import bypass, producer
from detq.numerics.output_error import output_error
from detq.quant.fallback import QuantizerGroup, fall_back, quantizer_groups
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
MOST_TENSORS = 5
TENSOR_HEADINGS = (
    *("all", "grids", "five tensors in float, one at a time: chosen so → on other images"),
    "these five together",
)


def main() -> None:
    parser = zoo_parser(__doc__)
    parser.add_argument("--only", action="append", metavar="MODEL", help="may be repeated")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--map", action="store_true", help="loss of mAP on the test split instead")
    what.add_argument("--tensors", action="store_true", help="what single tensors bring in float")
    parser.add_argument("--seed", type=int, help="choice of calibration images: the plan's first")
    given = parser.parse_args()
    with errors_in_one_line():
        _print(given)


def _print(given: argparse.Namespace) -> None:
    plan, unpacked = read_plan(given.config).only(given.only), results_of(given).folder
    headings = TENSOR_HEADINGS if given.tensors else HEADINGS
    print("\n".join(markdown_head(["model", *headings])))
    failed = False
    for entry in plan.models:
        try:
            subject = Subject(entry, plan, given.root, unpacked)
            quantizer = Quantizer(subject, plan.seeds[0] if given.seed is None else given.seed)
            cells = tensor_cells(quantizer) if given.tensors else part_cells(quantizer, given.map)
            print(markdown_row([entry.label, *cells]), flush=True)
        except DetqError as error:  # the other models go on
            print(f"{entry.label}: {error}", file=sys.stderr)
            failed = True
    sys.exit(int(failed))


def part_cells(quantizer: Quantizer, of_map: bool) -> list[str]:
    """What each of :data:`HEADINGS` leaves: output errors, or losses on the test split."""
    judge = loss_of(quantizer.subject) if of_map else error_of(quantizer)
    return [judge(model) for model in Networks(quantizer)]


def tensor_cells(quantizer: Quantizer) -> list[str]:
    """What the tensors bring that bring most, chosen on half of the images, on the other half.

    Quantizers that share a grid count as one, by the name of the first.
    """
    network = Networks(quantizer).whole
    trial = TrialNetwork(network, quantizer.held_back(IMAGES))
    groups = quantizer_groups(network)

    def errors(*more: QuantizerGroup) -> npt.NDArray[np.float64]:
        in_float = network.in_float.union(*(group.members for group in more))
        return trial.errors(network.ranges, in_float)

    before = errors()
    half = len(before) // 2
    if not half:
        raise DetqError("one held-back image is not enough to choose by and to judge; give more")
    gains = {group: before - errors(group) for group in groups}
    first = sorted(groups, key=lambda group: -gains[group][:half].mean())[:MOST_TENSORS]

    def share(gain: npt.NDArray[np.float64]) -> str:
        here, there = (
            gain[some].mean() / (before[some].mean() or 1.0)
            for some in (slice(half), slice(half, None))
        )
        return f"{100 * here:.0f}% → {100 * there:.0f}%"

    return [
        f"{before[half:].mean():.3f}",
        str(len(groups)),
        ", ".join(f"`{_tensor(group)}` {share(gains[group])}" for group in first),
        share(before - errors(*first)),
    ]


def _tensor(group: QuantizerGroup) -> str:
    """What it rounds first, without what NNCF calls the quantizer behind it."""
    return group.members[0].removesuffix("/fq_output_0")


Judge = Callable[[ov.Model], str]


def error_of(quantizer: Quantizer) -> Judge:
    """The mean output error on images that calibration does not see."""
    images = quantizer.held_back(IMAGES)
    expected = _outputs(quantizer.subject.graph.model, images)

    def error(model: ov.Model) -> str:
        found = _outputs(model, images)
        return f"{np.mean([*map(output_error, expected, found)]):.3f}"

    return error


def loss_of(subject: Subject) -> Judge:
    """What is lost on the test split, and its interval."""
    exact = subject.score(subject.graph, is_float=True)

    def loss(model: ov.Model) -> str:
        found = subject.score(DetectorGraph(model, subject.graph.spec), is_float=False)
        return points_lost(
            exact.row["score"] - found.row["score"],
            exact.arrays["resampled"] - found.arrays["resampled"],
        )

    return loss


class Networks:
    """The networks of :data:`HEADINGS`, in this order."""

    def __init__(self, quantizer: Quantizer) -> None:
        self._quantizer = quantizer
        passes = quantizer.passes("measured")
        self._passes = tuple(one for one in passes if one.stage < Stage.FINISHED)

    @property
    def whole(self) -> Network:
        """Behind all passes but those that finish it."""
        return self._behind(self._passes)

    def __iter__(self) -> Iterator[ov.Model]:
        network = self.whole
        yield _model(network)
        yield self._weights_alone(self._passes)
        yield self._weights_alone(_without_pair_limit(self._passes))
        for part in PARTS:
            yield _model(fall_back(network, [q.name for q in network.quantizers if q.part == part]))
        for budget in BUDGETS:
            yield _model(
                self._behind(
                    replace(one, budget=budget) if isinstance(one, FallBackToFloat) else one
                    for one in self._passes
                )
            )
        kept = (one for one in self._passes if not isinstance(one, GiveUpZeroPoints))
        yield _model(self._behind(kept))

    def _behind(self, passes: Iterable[Pass]) -> Network:
        return self._quantizer.behind(tuple(passes))[0]

    def _weights_alone(self, passes: Sequence[Pass]) -> ov.Model:
        """Of the network behind the rounding of its weights, its activations in float."""
        last = max(n for n, one in enumerate(passes, start=1) if isinstance(one, RoundWeights))
        model = _model(self._behind(passes[:last]))
        for node in activation_nodes(model):
            if producer(node).get_type_name() != "Parameter":  # pixels lie on their grid
                bypass(node)
        return model


def _model(network: Network) -> ov.Model:
    """With its biases corrected."""
    model = network.model.clone()
    add_to_biases(model, network.bias_shifts)
    return model


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
