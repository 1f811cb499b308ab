"""A network -> its graph of calls, by torch.fx."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from detq.errors import GraphError

_CHUNKS = ("chunk", torch.chunk)  # fewer pieces if the size is no multiple: indexing then fails
_SPLITS = ("split", "split_with_sizes", torch.split)


def trace(network: nn.Module) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """The traced network, and the innermost modules that had to stay whole for it.

    A module stays whole if its ``forward`` decides on values or sizes. Raises GraphError if the
    network itself is one.
    """
    opaque = set[str]()
    while True:
        tracer = _Tracer(opaque)
        try:
            graph = tracer.trace(network)
        except Exception as error:  # the network's own code runs here, and may raise anything
            if tracer.failed is not None:
                opaque.add(tracer.failed)
                continue
            lines = str(error).strip().splitlines()
            reason = lines[0] if lines else type(error).__name__
            raise GraphError(
                f"{type(network).__name__}: cannot be traced ({reason}); move what depends on "
                "values or sizes of tensors from its forward() into a module of its own"
            ) from None
        traced = fx.GraphModule(tracer.root, graph, type(network).__name__)
        called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        return traced, tuple(sorted(opaque & called))


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
        except Exception:  # as above
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
