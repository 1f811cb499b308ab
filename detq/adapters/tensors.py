"""Stored tensors -> a network: every value checked, nothing missing, nothing left over.

Errors are CheckpointErrors without the file's name, which the caller adds.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from detq.errors import CheckpointError

COUNTER = ".num_batches_tracked"
"""Ends the name of what a BatchNorm counts in training; it has no part in inference."""


def check_values(key: str, tensor: Tensor) -> None:
    """Raise CheckpointError for numbers that no trained network holds."""
    if not tensor.isfinite().all():
        raise CheckpointError(f"tensor {key} holds NaN or infinity; the training diverged")
    if key.endswith(".running_var") and (tensor < 0).any():
        raise CheckpointError(f"tensor {key} holds a negative variance")


def fill(module: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Give ``module`` the stored tensors; it may lie on the meta device.

    Raises CheckpointError for a tensor that is missing, of another shape, or of no part of it.
    """
    tensors = dict(stored)
    expected = module.state_dict()
    for key, target in expected.items():
        if key.endswith(COUNTER):
            tensors[key] = torch.zeros((), dtype=torch.int64)
        elif key not in tensors:
            raise CheckpointError(f"tensor {key} is missing")
        elif tensors[key].shape != target.shape:
            raise CheckpointError(
                f"tensor {key} has shape {list(tensors[key].shape)}, expected {list(target.shape)}"
            )
    unknown = sorted(tensors.keys() - expected.keys())
    if unknown:
        raise CheckpointError(f"tensor {unknown[0]} belongs to no part of the network")
    module.load_state_dict(tensors, assign=True)
