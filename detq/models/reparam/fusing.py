"""Each sum of branches that a network computes -> one convolution in its place."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import count, takewhile
from typing import cast

import torch
from torch import fx, nn

from detq.models.reparam.algebra import Branch, Pair, merged
from detq.models.reparam.matching import Modules, find_branches
from detq.models.reparam.scopes import keep_scopes
from detq.models.reparam.tracing import trace
from detq.records import ReparamConvolution, part_of

TAG = "is_reparameterized"
"""A module with this attribute true is a block whose branches are one convolution already: they
were added up in training (RepOptimizer) or merged before. It counts like those found here.
"""


@dataclass(frozen=True)
class FoundBlock:
    """Parallel branches that became the convolution ``name``; ``branches`` are module paths.

    A branch of several modules is their paths joined by ``>``; a bare identity is ``x``. A block
    that says by :data:`TAG` what it is has one branch.
    """

    name: str
    branches: tuple[str, ...]
    kernel_hw: Pair


@dataclass(frozen=True)
class FusedBranches:
    """A fused network and what was found: blocks of several branches, and BatchNorms that were
    folded into the convolution before them (``folded``, names of those convolutions).

    ``opaque`` are the modules that could not be traced; they stayed as they were.
    """

    module: fx.GraphModule
    blocks: tuple[FoundBlock, ...]
    folded: tuple[str, ...]
    opaque: tuple[str, ...]

    @property
    def reparameterized(self) -> tuple[ReparamConvolution, ...]:
        """The blocks for a ``ModelSpec``, those that have a centre tap to split off.

        Neck and head are told by the first name of the path.
        """
        return tuple(
            ReparamConvolution(block.name, part_of(block.name) or "backbone")
            for block in self.blocks
            if _has_centre_tap(cast(nn.Conv2d, self.module.get_submodule(block.name)))
        )


@torch.no_grad()
def fuse_branches(model: nn.Module, *, keep_names: bool = False) -> FusedBranches:
    """A new network that computes the same in evaluation mode, with one convolution per block.

    Exact but for rounding to the dtype of the weights. ``model`` stays as it is and shares no
    weights with the result. What is not linear, or reads a tensor that others read as well, stays.

    A convolution lies below the innermost module that holds all its branches and is called
    ``fused`` there; with ``keep_names`` as its largest branch's convolution was. Then other
    operations keep the scope of the module that calls them, too.

    A module whose ``forward`` decides on values or sizes is kept whole; GraphError if the network
    itself is one. ``torch.fx`` takes ``x += y`` for ``x + y``: compare the outputs where a network
    relies on the difference.
    """
    network = copy.deepcopy(model).eval()
    tagged = {path for path, module in network.named_modules() if getattr(module, TAG, False)}
    traced, opaque = trace(network)
    modules = dict(traced.named_modules())
    blocks: dict[str, FoundBlock] = {}  # by name: nothing keeps a module from being called twice
    folded: list[str] = []
    for node in reversed(list(traced.graph.nodes)):  # the largest sum first
        branch = _as_one(node, modules)
        if branch is None or branch.convolution is None:
            continue
        parent = _shared_parent(branch.modules)
        is_alone = branch.modules == (branch.convolution,)
        if is_alone:
            name = branch.convolution
        else:
            last = branch.convolution.rpartition(".")[2] if keep_names else "fused"
            name = _free_name(traced, [*parent, last], branch.modules)
            dtype = cast(nn.Conv2d, modules[branch.convolution]).weight.dtype
            _replace(traced, node, name, branch, dtype)
        if len(branch.paths) > 1 or ".".join(parent) in tagged:
            written = tuple(">".join(path) or "x" for path in branch.paths)
            blocks[name] = FoundBlock(name, written, branch.kernel_hw)
        elif not is_alone:
            folded.append(name)
    traced.delete_all_unused_submodules()
    if keep_names:
        keep_scopes(traced.graph)
    traced.recompile()
    return FusedBranches(
        traced.eval().requires_grad_(False),
        tuple(reversed(blocks.values())),
        tuple(reversed(folded)),
        opaque,
    )


def _as_one(node: fx.Node, modules: Modules) -> Branch | None:
    """What ``node`` computes as one branch, if it is one."""
    branches = find_branches(node, modules) if node.users else None
    return merged(branches) if branches else None


def _shared_parent(paths: Iterable[str]) -> list[str]:
    """The path of the innermost module that holds all of ``paths``, name by name."""
    parents = [path.split(".")[:-1] for path in paths]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*parents, strict=False))
    return [level[0] for level in levels]


def _free_name(traced: fx.GraphModule, path: list[str], replaced: Collection[str]) -> str:
    """``path``, with a number behind it if another module has that name.

    Those of the modules ``replaced`` that nothing else calls give their names away.
    """
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    leaving = {module for module in replaced if calls[module] == 1}
    taken = {name for name, _ in traced.named_modules()} - leaving
    name = ".".join(path)
    numbered = (f"{name}{number}" for number in count(2))
    return name if name not in taken else next(each for each in numbered if each not in taken)


def _replace(
    traced: fx.GraphModule, node: fx.Node, name: str, branch: Branch, dtype: torch.dtype
) -> None:
    """Put the convolution ``branch`` where ``node`` is, and drop what computed it."""
    outputs, inputs = branch.channels
    conv = nn.Conv2d(
        inputs,
        outputs,
        branch.kernel_hw,
        branch.stride,
        branch.padding,
        branch.dilation,
        branch.groups,
        device="meta",
    )
    conv.weight = nn.Parameter(branch.kernel.weight.to(dtype))
    conv.bias = nn.Parameter(branch.kernel.bias.to(dtype))
    traced.add_submodule(name, conv)
    with traced.graph.inserting_before(node):
        node.replace_all_uses_with(traced.graph.call_module(name, (branch.source,)))
    _drop(node)


def _drop(node: fx.Node) -> None:
    """Erase a node that nothing reads, and what only it has read.

    Other nodes that nothing reads may change a tensor in place.
    """
    unread = [node]
    while unread:
        dropped = unread.pop()
        above = dropped.all_input_nodes
        dropped.graph.erase_node(dropped)
        unread += [each for each in above if not each.users and each.op != "placeholder"]


def _has_centre_tap(conv: nn.Conv2d) -> bool:
    """True if one tap of several lies on the output pixel."""
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    odd = all(side % 2 for side in conv.kernel_size)
    return odd and any(reach) and conv.padding == tuple(side // 2 for side in reach)
