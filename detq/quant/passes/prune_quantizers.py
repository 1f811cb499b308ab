"""Quantizers that round for nothing are taken out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar

import openvino as ov

from detq.graph.surgery import (
    WEIGHTED,
    bypass,
    constant_value,
    consumers,
    nodes_by_name,
    producers,
)
from detq.quant.network import Network, Stage
from detq.quant.pipeline import Seen, WantsNothing
from detq.quant.quantizers import HANDING_ON, activation_nodes


@dataclass(frozen=True)
class PruneQuantizers(WantsNothing):
    """Take out those behind coarse branches, and unless ``elementwise`` those that only arithmetic
    reads.

    The runtime adds the fine branch (INT8) to the coarse convolution's 32-bit accumulator, so
    rounding the coarse result first would only lose accuracy. NNCF also quantizes the operands of
    products, sums and means, whose results the next convolution's quantizer rounds again. Fine
    branches keep theirs where the sum is rounded next: the runtime then adds them inside the coarse
    convolution.
    """

    elementwise: bool = False
    name: ClassVar[str] = "prune quantizers"
    stage: ClassVar[Stage] = Stage.PLACED
    keeps_float: ClassVar[bool] = True

    def apply(self, network: Network, seen: Seen) -> Network:
        """Take them out."""
        model = network.model.clone()
        nodes, fine = nodes_by_name(model), {q.name for q in network.quantizers if q.is_fine_branch}
        for split in network.splits:
            for branch in producers(nodes[split.total]):
                if (
                    branch.get_type_name() == "FakeQuantize"
                    and branch.get_friendly_name() not in fine
                ):
                    bypass(branch)
        if not self.elementwise:
            _drop_idle(model, fine)
        model.validate_nodes_and_infer_types()
        left = {node.get_friendly_name() for node in activation_nodes(model)}
        quantizers = tuple(q for q in network.quantizers if q.name in left)
        did = f"{len(network.quantizers) - len(quantizers)} of {len(network.quantizers)}"
        return replace(network, model=model, quantizers=quantizers, did=did)


def _drop_idle(model: ov.Model, fine_branches: Collection[str]) -> None:
    """Bypass what only arithmetic reads; changes the model."""
    idle = [
        node
        for node in activation_nodes(model)
        if not any(user.get_type_name() in WEIGHTED | HANDING_ON for user in consumers(node))
    ]
    fine = [node for node in idle if node.get_friendly_name() in fine_branches]
    for node in idle:
        if node not in fine:
            bypass(node)
    for node in fine:  # what stays depends on what the others left
        if not _is_rounded_next(consumers(node)[0]):
            bypass(node)


def _is_rounded_next(node: ov.Node) -> bool:
    """True if quantizers alone read the node, or what activation functions make of it."""
    own, pending = {node.get_name()}, consumers(node)
    while pending:
        user = next((user for user in pending if _is_function_of(user, own)), None)
        if user is None:
            return False
        pending = [other for other in pending if other.get_name() != user.get_name()]
        if user.get_type_name() != "FakeQuantize":
            own.add(user.get_name())
            pending += consumers(user)
    return True


def _is_function_of(node: ov.Node, names: Collection[str]) -> bool:
    """True for a quantizer, or for arithmetic on the named nodes and constants alone."""
    if node.get_type_name() == "FakeQuantize":
        return True
    if node.get_type_name() in WEIGHTED | {"Result"}:
        return False
    return all(
        above.get_name() in names or constant_value(above) is not None for above in producers(node)
    )
