"""Re-parameterization of any network: parallel linear branches are found by what they are.

:func:`fuse_branches` traces a network and looks for sums of convolutions, BatchNorms, means and
identities that read one tensor, whatever they are called; a term may be subtracted, or scaled per
channel. Each such sum is one convolution (RepVGG, arXiv 2101.03697, section 3.3; MobileOne, arXiv
2206.04040, section 3.2; FastViT's token mixer, arXiv 2303.14189, section 3.1).
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import takewhile
from math import gcd
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from detq.errors import GraphError
from detq.models.fuse import Kernel, read_kernel
from detq.records import Part, ReparamConvolution

Pair = tuple[int, int]

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
_PASSED = (nn.Identity, nn.Dropout, nn.Dropout2d)  # in evaluation mode
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_SUBTRACTIONS = (operator.sub, torch.sub, "sub")
_PRODUCTS = (operator.mul, torch.mul, "mul")
_CHUNKS = ("chunk", torch.chunk)  # fewer pieces if the size is no multiple: indexing then fails
_SPLITS = ("split", "split_with_sizes", torch.split)
_PARTS: dict[str, Part] = {"neck": "neck", "head": "head", "detect": "head"}


@dataclass(frozen=True)
class FoundBlock:
    """Parallel branches that became the convolution ``name``; ``branches`` are module paths.

    A branch of several modules is their paths joined by ``>``; a bare identity is ``x``.
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
            ReparamConvolution(block.name, _PARTS.get(block.name.split(".", 1)[0], "backbone"))
            for block in self.blocks
            if _has_centre_tap(cast(nn.Conv2d, self.module.get_submodule(block.name)))
        )


@dataclass(frozen=True)
class _Branch:
    """A linear function of the tensor ``source``; ``kernel`` has the given geometry."""

    source: fx.Node
    kernel: Kernel
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    modules: tuple[str, ...] = ()
    has_convolution: bool = False

    @property
    def kernel_hw(self) -> Pair:
        height, width = self.kernel.weight.shape[2:]
        return height, width

    @property
    def channels(self) -> Pair:
        """Outputs and inputs."""
        outputs, inputs = self.kernel.weight.shape[:2]
        return outputs, inputs * self.groups

    @property
    def geometry(self) -> tuple[Pair, Pair, tuple[int, ...]]:
        """What branches of a sum share: channels, stride, and by how much the output outgrows the
        input at stride 1. With equal channels nothing in the sum is broadcast.
        """
        margins = (
            2 * p - d * (k - 1)
            for p, d, k in zip(self.padding, self.dilation, self.kernel_hw, strict=True)
        )
        return self.channels, self.stride, tuple(margins)

    def through(self, module: str, kernel: Kernel) -> _Branch:
        return replace(self, kernel=kernel, modules=(*self.modules, module))


@torch.no_grad()
def fuse_branches(model: nn.Module) -> FusedBranches:
    """A new network that computes the same in evaluation mode, with one convolution per block.

    Exact but for rounding to the dtype of the weights. ``model`` stays as it is and shares no
    weights with the result. What is not linear, or reads a tensor that others read as well, stays.

    A module whose ``forward`` decides on values or sizes is kept whole; GraphError if the network
    itself is one. ``torch.fx`` takes ``x += y`` for ``x + y``: compare the outputs where a network
    relies on the difference.
    """
    traced, opaque = _trace(copy.deepcopy(model).eval())
    modules = dict(traced.named_modules())
    blocks: list[FoundBlock] = []
    folded: list[str] = []
    for node in reversed(list(traced.graph.nodes)):  # the largest sum first
        branches = _branches(node, modules) if node.users else None
        if not branches or not _is_worth_fusing(branches):
            continue
        kernel = _as_one(branches)
        if kernel is None:
            continue
        name = _free_name(traced, [path for branch in branches for path in branch.modules])
        _replace(traced, node, name, kernel, _dtype_of(modules, branches))
        if len(branches) > 1:
            written = tuple(">".join(branch.modules) or "x" for branch in branches)
            blocks.append(FoundBlock(name, written, kernel.kernel_hw))
        else:
            folded.append(name)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return FusedBranches(
        traced.eval().requires_grad_(False),
        tuple(reversed(blocks)),
        tuple(reversed(folded)),
        opaque,
    )


class _Pieces(fx.Proxy):
    """What ``x.chunk(n)`` or ``x.split((a, b))`` returns: a sequence whose length is known."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, count: int) -> None:
        super().__init__(node, tracer)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[fx.Proxy]:
        return (operator.getitem(self, index) for index in range(self.count))


class _Tracer(fx.Tracer):
    """Looks into every module but those of torch itself and those in ``opaque``."""

    def __init__(self, opaque: set[str]) -> None:
        super().__init__()
        self.opaque = opaque
        self.failed: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.opaque or super().is_leaf_module(
            m, module_qualified_name
        )

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # the network's own code runs here, and may raise anything
            path = self.path_of_module(m)
            if self.failed is None and not self.is_leaf_module(m, path):
                self.failed = path
            raise

    def proxy(self, node: fx.Node) -> fx.Proxy:
        count = _piece_count(node)
        return super().proxy(node) if count is None else _Pieces(node, self, count)


def _piece_count(node: fx.Node) -> int | None:
    """Into how many tensors ``node`` cuts one; None if it does not, or does not say."""
    if node.op not in ("call_function", "call_method") or len(node.args) < 2:
        return None
    pieces = node.args[1]
    if node.target in _CHUNKS and isinstance(pieces, int):
        return pieces
    if node.target in _SPLITS and isinstance(pieces, list | tuple):
        return len(pieces)
    return None


def _trace(model: nn.Module) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """The traced network, and the innermost modules that had to stay whole for it."""
    opaque = set[str]()
    while True:
        tracer = _Tracer(opaque)
        try:
            graph = tracer.trace(model)
        except Exception as error:  # as above
            if tracer.failed is not None:
                opaque.add(tracer.failed)
                continue
            lines = str(error).strip().splitlines()
            reason = lines[0] if lines else type(error).__name__
            raise GraphError(
                f"{type(model).__name__}: cannot be traced ({reason}); move what depends on "
                "values or sizes of tensors from its forward() into a module of its own"
            ) from None
        traced = fx.GraphModule(tracer.root, graph, type(model).__name__)
        called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        return traced, tuple(sorted(opaque & called))


def _branches(node: fx.Node, modules: dict[str, nn.Module]) -> list[_Branch] | None:
    """The branches whose sum is ``node``; None if it is no linear function of other tensors."""
    channels = next(_channels(node, modules), None)
    if channels is None:
        return None
    branches = _expand(node, modules, channels)
    return None if branches == [_identity(node, channels)] else branches


def _expand(node: fx.Node, modules: dict[str, nn.Module], channels: int) -> list[_Branch]:
    """What ``node`` adds up; a tensor that is no linear function is the identity of itself."""
    if (combined := _combined(node, modules, channels)) is not None:
        return combined
    module = _module_of(node, modules)
    if module is None:
        return [_identity(node, channels)]
    source, path = cast(fx.Node, node.args[0]), str(node.target)
    if isinstance(module, _PASSED):
        return _inner(source, modules, channels, reader=node)
    if isinstance(module, _NORMS):
        return _normalized(_inner(source, modules, channels, reader=node), path, module)
    return [_own_branch(source, path, module, channels)]


def _combined(node: fx.Node, modules: dict[str, nn.Module], channels: int) -> list[_Branch] | None:
    """The branches of a sum, a difference or a scaled tensor; None for any other node."""
    if _is_addition(node):
        return [
            branch
            for term in _terms(node)
            for branch in _inner(term, modules, channels, reader=node)
        ]
    if _is_subtraction(node):
        first, second = (_inner(term, modules, channels, reader=node) for term in _terms(node))
        return [*first, *_scaled(second, -torch.ones(channels))]
    if (product := _scaling(node, channels)) is not None:
        return _scaled(_inner(product[0], modules, channels, reader=node), product[1])
    return None


def _inner(
    node: fx.Node, modules: dict[str, nn.Module], channels: int, *, reader: fx.Node
) -> list[_Branch]:
    """The branches of a tensor inside a sum; one that others read as well has to stay."""
    if set(node.users) != {reader}:
        return [_identity(node, channels)]
    return _expand(node, modules, channels)


def _own_branch(source: fx.Node, path: str, module: nn.Module, channels: int) -> _Branch:
    """A convolution, or a mean with its padding counted, of ``source``."""
    if isinstance(module, nn.Conv2d):
        return _Branch(
            source,
            read_kernel(module),
            cast(Pair, module.stride),
            _padding(module),
            cast(Pair, module.dilation),
            module.groups,
            (path,),
            has_convolution=True,
        )
    pool = cast(nn.AvgPool2d, module)
    height, width = _pair(pool.kernel_size)
    weight = torch.full((channels, 1, height, width), 1 / (height * width), dtype=torch.float64)
    kernel = Kernel(weight, torch.zeros(channels, dtype=torch.float64))
    stride, padding = _pair(pool.stride), _pair(pool.padding)
    return _Branch(source, kernel, stride, padding, (1, 1), channels, (path,))


def _identity(source: fx.Node, channels: int) -> _Branch:
    weight = torch.ones(channels, 1, 1, 1, dtype=torch.float64)
    kernel = Kernel(weight, torch.zeros(channels, dtype=torch.float64))
    return _Branch(source, kernel, (1, 1), (0, 0), (1, 1), channels)


def _normalized(branches: list[_Branch], path: str, module: nn.Module) -> list[_Branch]:
    """A BatchNorm behind a sum scales every branch; its shift belongs to the first."""
    norm = cast(nn.BatchNorm2d, module)
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    factors = (variance.double() + norm.eps).rsqrt()
    shift = -mean.double() * factors
    if norm.affine:
        factors, shift = factors * norm.weight.double(), shift * norm.weight.double()
        shift = shift + norm.bias.double()
    scaled = [branch.through(path, branch.kernel.scaled(factors)) for branch in branches]
    first = scaled[0]
    shifted = Kernel(first.kernel.weight, first.kernel.bias + shift)
    return [replace(first, kernel=shifted), *scaled[1:]]


def _scaled(branches: list[_Branch], factors: Tensor) -> list[_Branch]:
    return [replace(branch, kernel=branch.kernel.scaled(factors)) for branch in branches]


def _is_subtraction(node: fx.Node) -> bool:
    """``a - b`` of two tensors."""
    called = node.op in ("call_function", "call_method") and node.target in _SUBTRACTIONS
    return called and not node.kwargs and len(node.args) == len(_terms(node)) == 2


def _scaling(node: fx.Node, channels: int | None) -> tuple[fx.Node, Tensor] | None:
    """The tensor that ``node`` multiplies by a stored factor per channel (layer scale), and [C]."""
    called = node.op in ("call_function", "call_method") and node.target in _PRODUCTS
    terms = _terms(node)
    if not called or node.kwargs or not len(node.args) == len(terms) == 2:
        return None
    stored = [term for term in terms if term.op == "get_attr"]
    if len(stored) != 1:
        return None
    factors: Any = node.graph.owning_module
    for step in str(stored[0].target).split("."):
        factors = getattr(factors, step)
    (other,) = (term for term in terms if term is not stored[0])
    per_channel = list(factors.shape[-3:][1:]) == [1, 1] and factors.numel() == factors.shape[-3]
    if not per_channel or channels not in (None, factors.numel()):
        return None
    return other, factors.detach().flatten()


def _module_of(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    """The module that ``node`` calls, if it is one of those that are linear in evaluation mode.

    A subclass or a hook may compute anything, so neither counts.
    """
    one_tensor = len(node.args) == 1 and isinstance(node.args[0], fx.Node) and not node.kwargs
    if node.op != "call_module" or not one_tensor:
        return None
    module = modules[str(node.target)]
    kind = type(module)
    hooked = bool(module._forward_hooks or module._forward_pre_hooks)
    if hooked or (kind not in (*_NORMS, *_PASSED, nn.Conv2d, nn.AvgPool2d)):
        return None
    if isinstance(module, _NORMS) and module.running_mean is None:
        return None
    if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or _is_lopsided(module)):
        return None
    if isinstance(module, nn.AvgPool2d) and (
        not module.count_include_pad or module.ceil_mode or module.divisor_override is not None
    ):
        return None
    return module


def _is_addition(node: fx.Node) -> bool:
    """``a + b`` of two tensors, or of a tensor and the number 0 (``sum()`` begins with it)."""
    if node.op not in ("call_function", "call_method") or node.target not in _ADDITIONS:
        return False
    if len(node.args) != 2 or node.kwargs:  # alpha=
        return False
    return bool(_terms(node)) and all(
        isinstance(term, fx.Node) or (isinstance(term, int | float) and term == 0)
        for term in node.args
    )


def _terms(node: fx.Node) -> list[fx.Node]:
    return [term for term in node.args if isinstance(term, fx.Node)]


def _channels(node: fx.Node, modules: dict[str, nn.Module]) -> Iterator[int]:
    """The number of channels of ``node`` as the modules that it adds up state it."""
    if _is_addition(node) or _is_subtraction(node):
        for term in _terms(node):
            yield from _channels(term, modules)
        return
    if (product := _scaling(node, None)) is not None:
        yield from _channels(product[0], modules)
        return
    module = _module_of(node, modules)
    if isinstance(module, nn.Conv2d):
        yield module.out_channels
    elif isinstance(module, _NORMS):
        yield module.num_features
    elif module is not None:
        yield from _channels(cast(fx.Node, node.args[0]), modules)


def _is_worth_fusing(branches: Sequence[_Branch]) -> bool:
    """False without a convolution, and for one that stands alone already."""
    several = len(branches) > 1 or len(branches[0].modules) > 1
    return several and any(branch.has_convolution for branch in branches)


def _as_one(branches: Sequence[_Branch]) -> _Branch | None:
    """The sum of all branches as one; None if they read different tensors or do not line up.

    Also None if the sum needs fewer groups than its largest kernel has: it would cost more.
    """
    widest = max(branches, key=lambda branch: (max(branch.kernel_hw), branch.has_convolution))
    groups = reduce(gcd, (branch.groups for branch in branches))
    if _is_changed_in_place(widest.source) or (widest.has_convolution and widest.groups != groups):
        return None
    kernels = [_enlarged(branch, widest, groups) for branch in branches]
    if any(kernel is None for kernel in kernels):
        return None
    return replace(widest, kernel=reduce(operator.add, cast(list[Kernel], kernels)), groups=groups)


def _enlarged(branch: _Branch, widest: _Branch, groups: int) -> Kernel | None:
    """The kernel of ``branch`` with the taps, dilation and groups of ``widest``."""
    if branch.source is not widest.source or branch.geometry != widest.geometry:
        return None
    taps = list[list[int]]()
    for axis in (0, 1):
        step, before = widest.dilation[axis], widest.padding[axis] - branch.padding[axis]
        places = [
            divmod(tap * branch.dilation[axis] + before, step)
            for tap in range(branch.kernel_hw[axis])
        ]
        if any(rest or not 0 <= place < widest.kernel_hw[axis] for place, rest in places):
            return None
        taps.append([place for place, _ in places])
    narrow = _regrouped(branch.kernel.weight, branch.groups, groups)
    weight = narrow.new_zeros(*narrow.shape[:2], *widest.kernel_hw)
    weight[:, :, torch.tensor(taps[0])[:, None], torch.tensor(taps[1])] = narrow
    return Kernel(weight, branch.kernel.bias)


def _regrouped(weight: Tensor, groups: int, fewer: int) -> Tensor:
    """[O, I/groups, kH, kW] -> [O, I/fewer, kH, kW]: zeros between the groups that are joined."""
    joined = groups // fewer
    if joined == 1:
        return weight
    outputs, inputs = weight.shape[:2]
    wide = weight.new_zeros(outputs, joined, inputs, *weight.shape[2:])
    place = torch.arange(outputs) // (outputs // groups) % joined
    wide[torch.arange(outputs), place] = weight
    return wide.flatten(1, 2)


def _free_name(traced: fx.GraphModule, paths: Sequence[str]) -> str:
    """``fused`` below the innermost module that holds all of ``paths``."""
    parents = [path.split(".")[:-1] for path in paths]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*parents, strict=False))
    shared = [level[0] for level in levels]
    taken = {name for name, _ in traced.named_modules()}
    name = ".".join([*shared, "fused"])
    number = 1
    while name in taken:
        number += 1
        name = ".".join([*shared, f"fused{number}"])
    return name


def _replace(
    traced: fx.GraphModule, node: fx.Node, name: str, branch: _Branch, dtype: torch.dtype
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
    traced.graph.eliminate_dead_code()


def _dtype_of(modules: dict[str, nn.Module], branches: Sequence[_Branch]) -> torch.dtype:
    path = next(branch for branch in branches if branch.has_convolution).modules[0]
    return cast(nn.Conv2d, modules[path]).weight.dtype


def _is_changed_in_place(source: fx.Node) -> bool:
    """True if some reader of ``source`` overwrites it: then it matters who reads it when."""
    modules = dict(cast(nn.Module, source.graph.owning_module).named_modules())
    for user in source.users:
        if user.op == "call_module":
            if getattr(modules[str(user.target)], "inplace", False):
                return True
        elif (
            user.kwargs.get("inplace")
            or user.target is operator.iadd
            or (user.op == "call_method" and str(user.target).endswith("_"))
        ):
            return True
    return False


def _has_centre_tap(conv: nn.Conv2d) -> bool:
    """True if one tap of several lies on the output pixel."""
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    odd = all(side % 2 for side in conv.kernel_size)
    return odd and any(reach) and conv.padding == tuple(side // 2 for side in reach)


def _is_lopsided(conv: nn.Conv2d) -> bool:
    """True where ``same`` pads one side more than the other."""
    reach = (d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    return conv.padding == "same" and any(side % 2 for side in reach)


def _padding(conv: nn.Conv2d) -> Pair:
    """Zeros on each side; ``same`` is half of the kernel's reach."""
    if conv.padding == "valid":
        return (0, 0)
    if conv.padding == "same":
        rows, columns = (
            d * (k - 1) // 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)
        )
        return rows, columns
    return cast(Pair, conv.padding)


def _pair(value: int | tuple[int, ...] | None) -> Pair:
    if isinstance(value, int):
        return value, value
    rows, columns = cast(Pair, value)
    return rows, columns
