"""torch module -> TorchScript, which OpenVINO reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def scripted(module: nn.Module, shape: Sequence[int]) -> torch.jit.ScriptModule:
    """What a module in eval mode does with images of this shape, [B, 3, H, W].

    Without torch's own check, which traces and runs the network twice more: a third of the time
    that opening a checkpoint took.
    """
    options = {"strict": False, "check_trace": False}
    return torch.jit.trace(module, torch.zeros(*shape), **options)  # type: ignore[no-untyped-call,no-any-return]
