"""Which branches a tensor of a traced network adds up: sums, differences and scalings of
convolutions, BatchNorms, means and identities.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from detq.models.reparam.algebra import Branch, Kernel, Pair, identity, normalized, scaled

Modules = Mapping[str, nn.Module]

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
_PASSED = (nn.Identity, nn.Dropout, nn.Dropout2d)  # in evaluation mode
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_SUBTRACTIONS = (operator.sub, torch.sub, "sub")
_PRODUCTS = (operator.mul, torch.mul, "mul")
_VIEWS = ("view", "reshape")


def find_branches(node: fx.Node, modules: Modules) -> list[Branch] | None:
    """The branches whose sum is ``node``; None if it is no linear function of other tensors.

    ``modules`` are those of the traced network by path. A tensor inside the sum that others read
    as well is not looked into: it has to stay.
    """
    channels = next(_channels(node, modules), None)
    if channels is None:
        return None
    branches = _expand(node, modules, channels)
    is_itself = len(branches) == 1 and branches[0].source is node
    return None if is_itself or any(_is_changed_in_place(b.source) for b in branches) else branches


def _expand(node: fx.Node, modules: Modules, channels: int) -> list[Branch]:
    """What ``node`` adds up; a tensor that is no linear function is the identity of itself."""
    if (combined := _combined(node, modules, channels)) is not None:
        return combined
    module = _module_of(node, modules)
    if module is None:
        return [identity(node, channels)]
    source, path = cast(fx.Node, node.args[0]), str(node.target)
    if isinstance(module, _PASSED):
        return _inner(source, modules, channels, reader=node)
    if isinstance(module, _NORMS):
        inner = _inner(source, modules, channels, reader=node)
        return normalized(inner, path, cast(nn.BatchNorm2d, module))
    return [_own_branch(source, path, module, channels)]


def _combined(node: fx.Node, modules: Modules, channels: int) -> list[Branch] | None:
    """The branches of a sum, a difference or a scaled tensor; None for any other node."""
    if _is_addition(node):
        return [
            branch
            for term in _terms(node)
            for branch in _inner(term, modules, channels, reader=node)
        ]
    if _is_subtraction(node):
        first, second = (_inner(term, modules, channels, reader=node) for term in _terms(node))
        return [*first, *scaled(second, -torch.ones(channels))]
    if (product := _scaling(node, channels)) is not None:
        return scaled(_inner(product[0], modules, channels, reader=node), product[1])
    return None


def _inner(node: fx.Node, modules: Modules, channels: int, *, reader: fx.Node) -> list[Branch]:
    """The branches of a tensor inside a sum; one that others read as well has to stay."""
    if set(node.users) != {reader}:
        return [identity(node, channels)]
    return _expand(node, modules, channels)


def _own_branch(source: fx.Node, path: str, module: nn.Module, channels: int) -> Branch:
    """A convolution, or a mean with its padding counted, of ``source``."""
    if isinstance(module, nn.Conv2d):
        return Branch(
            source,
            _read_kernel(module),
            cast(Pair, module.stride),
            _padding(module),
            cast(Pair, module.dilation),
            module.groups,
            ((path,),),
            convolution=path,
        )
    pool = cast(nn.AvgPool2d, module)
    height, width = _pair(pool.kernel_size)
    weight = torch.full((channels, 1, height, width), 1 / (height * width), dtype=torch.float64)
    return replace(
        identity(source, channels),
        kernel=Kernel(weight, torch.zeros(channels, dtype=torch.float64)),
        stride=_pair(pool.stride),
        padding=_pair(pool.padding),
        paths=((path,),),
    )


def _read_kernel(conv: nn.Conv2d) -> Kernel:
    """The numbers of a convolution; no bias counts as zeros."""
    weight = conv.weight.detach().double()
    bias = torch.zeros(len(weight)) if conv.bias is None else conv.bias.detach()
    return Kernel(weight, bias.double())


def _is_addition(node: fx.Node) -> bool:
    """``a + b`` of two tensors, or of a tensor and the number 0 (``sum()`` begins with it)."""
    if not _calls(node, _ADDITIONS) or len(node.args) != 2:
        return False
    return bool(_terms(node)) and all(
        isinstance(term, fx.Node) or (isinstance(term, int | float) and term == 0)
        for term in node.args
    )


def _is_subtraction(node: fx.Node) -> bool:
    """``a - b`` of two tensors."""
    return _calls(node, _SUBTRACTIONS) and len(node.args) == len(_terms(node)) == 2


def _scaling(node: fx.Node, channels: int | None) -> tuple[fx.Node, Tensor] | None:
    """The tensor that ``node`` multiplies by a stored factor per channel (layer scale), and [C]."""
    terms = _terms(node)
    if not _calls(node, _PRODUCTS) or not len(node.args) == len(terms) == 2:
        return None
    stored = [(term, value) for term in terms if (value := _stored(term)) is not None]
    if len(stored) != 1:
        return None
    ((constant, factors),) = stored
    (other,) = (term for term in terms if term is not constant)
    per_channel = list(factors.shape[-3:][1:]) == [1, 1] and factors.numel() == factors.shape[-3]
    if not per_channel or channels not in (None, factors.numel()):
        return None
    return other, factors.flatten()


def _stored(node: fx.Node) -> Tensor | None:
    """The value of a parameter or buffer, also of one that is read in another shape."""
    if node.op == "get_attr":
        value: Any = node.graph.owning_module
        for step in str(node.target).split("."):
            value = getattr(value, step)
        return value.detach() if isinstance(value, Tensor) else None
    if node.op != "call_method" or node.target not in _VIEWS or node.kwargs:
        return None
    read, *shape = node.args
    inner = _stored(read) if isinstance(read, fx.Node) else None
    if inner is None or not all(isinstance(side, int) for side in shape):
        return None
    return inner.reshape(cast(list[int], shape))


def _calls(node: fx.Node, functions: tuple[Any, ...]) -> bool:
    """True if ``node`` is a call of one of these without options such as ``alpha=``."""
    called = node.op in ("call_function", "call_method") and node.target in functions
    return called and not node.kwargs


def _terms(node: fx.Node) -> list[fx.Node]:
    return [term for term in node.args if isinstance(term, fx.Node)]


def _channels(node: fx.Node, modules: Modules) -> Iterator[int]:
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


def _module_of(node: fx.Node, modules: Modules) -> nn.Module | None:
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


def _is_changed_in_place(source: fx.Node) -> bool:
    """True if some reader of ``source`` overwrites it: then it matters who reads it when."""
    network = cast(nn.Module, source.graph.owning_module)
    for user in source.users:
        if user.op == "call_module":
            if getattr(network.get_submodule(str(user.target)), "inplace", False):
                return True
        elif (
            user.kwargs.get("inplace")
            or user.target is operator.iadd
            or (user.op == "call_method" and str(user.target).endswith("_"))
        ):
            return True
    return False


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
