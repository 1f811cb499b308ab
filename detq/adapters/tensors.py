"""Stored tensors -> a network: every value checked, nothing missing, nothing left over.

Errors are CheckpointErrors without the file's name, which the caller adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn

from detq.adapters.archive import Archive
from detq.adapters.unpickle import StoredTensor
from detq.errors import CheckpointError

COUNTER = ".num_batches_tracked"
"""Ends the name of what a BatchNorm counts in training; it has no part in inference."""


def check_values(key: str, tensor: Tensor) -> None:
    """Raise CheckpointError for numbers that no trained network holds."""
    if not tensor.isfinite().all():
        raise CheckpointError(f"tensor {key} holds NaN or infinity; the training diverged")
    if key.endswith(".running_var") and (tensor < 0).any():
        raise CheckpointError(f"tensor {key} holds a negative variance")


def read_tensors(archive: Archive, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """The tensors that inference needs, by key, as float32. Raises CheckpointError."""
    needed = {key: tensor for key, tensor in stored.items() if not key.endswith(COUNTER)}
    if sum(prod(tensor.shape) for tensor in needed.values()) > archive.byte_count:
        raise CheckpointError("the network has more weights than the file holds bytes")
    return {key: _read_tensor(archive, key, tensor) for key, tensor in needed.items()}


def _read_tensor(archive: Archive, key: str, stored: StoredTensor) -> Tensor:
    numbers = archive.read(key, stored)
    if numbers.dtype.kind != "f":
        raise CheckpointError(f"tensor {key} holds {numbers.dtype}, expected floating point")
    tensor = torch.from_numpy(numbers).float()
    check_values(key, tensor)
    return tensor


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
