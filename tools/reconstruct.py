"""What rivals of GPTQ and CFWS reach on re-parameterized networks: AdaRound, BRECQ, RepAPQ.

    python tools/reconstruct.py tools/zoo.yaml --root ../shared --only bccd_yolov6n > table.md

Every model of the zoo with re-parameterized layers, with weights of a step per channel and of one
per tensor: the same quantizers and ranges (least squared error), weights rounded to the nearest, by
GPTQ, split by CFWS, or learned chain by chain as :mod:`reconstruct_chains` says. Biases are
corrected afterwards in all. Prints a row for each as soon as it is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import openvino as ov
import torch
from reconstruct_chains import Link, Method, chains, learn
from zoo import results_of, zoo_parser
from zoo_measuring import Quantizer, Subject
from zoo_plan import read_plan

from detq.graph.execute import compile_exact
from detq.graph.surgery import nodes_by_name, producer, with_outputs
from detq.quant.network import Image, Network, Stage
from detq.quant.pipeline import Pass, Seen, WantsNothing

MSE = "ranges.backbone=mse,ranges.neck=mse,ranges.head=mse"
RECIPES = {
    "nearest": f"minmax/{MSE}",
    "GPTQ": f"minmax/{MSE},weights.rounding=gptq",
    "CFWS": "cfws_mse/",
}
METHODS: tuple[Method, ...] = ("adaround", "brecq", "repapq")
IMAGES = 64


@dataclass(frozen=True)
class Reconstruct(WantsNothing):
    """Learn every chain in turn, each behind those that are learned already."""

    method: Method
    images: int = IMAGES
    seed: int = 0
    name: ClassVar[str] = "reconstruct"
    stage: ClassVar[Stage] = Stage.ACTIVATIONS
    keeps_float: ClassVar[bool] = False

    def apply(self, network: Network, seen: Seen) -> Network:
        """As many images as ``images`` are looked at."""
        images = seen.statistics.sample("reading images to learn from", self.images)
        model = network.model.clone()
        longest = {"longest": 1} if self.method == "adaround" else {}
        found = chains(model, **longest)
        ranges = {}
        for chain in found:
            source = producer(chain[0].quantizer)
            index = chain[0].quantizer.input_value(0).get_index()
            inputs = _seen_at(model, source.get_friendly_name(), index, images)
            targets = _seen_at(network.float_model, _name_of_end(chain), 0, images)
            ranges |= learn(chain, self.method, inputs, targets, self.seed)
        model.validate_nodes_and_infer_types()
        rules = dict.fromkeys(ranges, "learned")
        network = network.with_rules(rules, {name: (one,) for name, one in ranges.items()})
        return replace(network, model=model, did=f"{len(found)} chains by {self.method}")


def _name_of_end(chain: Sequence[Link]) -> str:
    return str(chain[-1].end.get_friendly_name())


def _seen_at(model: ov.Model, name: str, index: int, images: Sequence[Image]) -> torch.Tensor:
    copy = model.clone()
    compiled = compile_exact(with_outputs(copy, [nodes_by_name(copy)[name].output(index)]))
    return torch.tensor(np.concatenate([compiled(image)[0] for image in images]))


def main() -> None:
    parser = zoo_parser(__doc__)
    parser.add_argument("--only", action="append", metavar="MODEL", help="may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    plan = read_plan(given.config)
    print("| model | step per | weights | mAP or top-1 | loss | agreement held back | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for entry in plan.models:
        if given.only and entry.label not in given.only:
            continue
        subject = Subject(entry, plan, given.root, results_of(given).folder)
        if not subject.splits:
            continue
        reference = subject.score(subject.graph, is_float=True).row["score"]
        quantizer = Quantizer(subject, given.seed)
        for granularity in ("channel", "tensor"):
            for label, passes in _variants(quantizer, granularity, given.seed):
                row, _ = quantizer.measure(passes)
                figures = _figures(row, reference)
                print(f"| {entry.label} | {granularity} | {label} | {figures} |", flush=True)


def _variants(
    quantizer: Quantizer, granularity: str, seed: int
) -> list[tuple[str, tuple[Pass, ...]]]:
    known = []
    for label, recipe in RECIPES.items():
        comma = "" if recipe.endswith("/") else ","
        name = f"{recipe}{comma}weights.granularity={granularity}"
        known.append((label, quantizer.passes(name)))
    plain = known[0][1]
    end = next(index for index, one in enumerate(plain) if one.stage == Stage.FINISHED)
    learned = [
        (method, (*plain[:end], Reconstruct(method, seed=seed), *plain[end:])) for method in METHODS
    ]
    return [*known, *learned]


def _figures(row: dict[str, Any], reference: float) -> str:
    loss = reference - row["score"]
    return f"{row['score']:.2f} | {loss:+.2f} | {row['held_back']:.1f} | {row['cpu_seconds']:.0f}"


if __name__ == "__main__":
    main()
