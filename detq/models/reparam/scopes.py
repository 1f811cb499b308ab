"""The names that a trace gives to operations: the path of the module in whose forward they stand.

A traced network calls every operation from one function, so that ``torch.jit.trace`` would name
them by number alone (``aten::cat/Concat_7``). Here each is told where it stood before
(``neck.Rep_p4.cv3/aten::cat``).
"""

from __future__ import annotations

import torch
from torch import fx


def keep_scopes(graph: fx.Graph) -> None:
    """Have every function and method be called in the scope that its module has; changes the graph.

    To be done last: what enters and leaves a scope has no output, and is taken for dead code.
    """
    for node in list(graph.nodes):
        stack = node.meta.get("nn_module_stack")
        if node.op not in ("call_function", "call_method") or not stack:
            continue
        path, _ = list(stack.values())[-1]
        with graph.inserting_before(node):
            graph.call_function(_enter, (f"__module.{path}",))
        with graph.inserting_after(node):
            graph.call_function(_leave)


def _enter(scope: str) -> None:
    """As ``torch.nn.Module`` does around its forward; nothing while no trace is recorded."""
    if (state := torch._C._get_tracing_state()) is not None:
        state.push_scope(scope)


def _leave() -> None:
    if (state := torch._C._get_tracing_state()) is not None:
        state.pop_scope()
