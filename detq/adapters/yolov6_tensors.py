"""Stored tensors -> the state dict that our network in training form expects.

Files saved in deployed form (branches already fused) are written back as branches that add up to
the same convolution, so that there is one form of network from here on. With a running variance of
1 − eps a BatchNorm divides by 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detq.errors import CheckpointError
from detq.models.blocks import BATCH_NORM_EPS, ConvModule, QARepVGGBlock, RepVGGBlock

Tensors = dict[str, Tensor]


def to_training_form(stored: Tensors, network: nn.Module) -> Tensors:
    """``stored`` with every fused convolution of ``network``'s blocks turned into branches.

    Tensors that belong to no block pass through; shapes are left to the loader to check.
    """
    tensors = dict(stored)
    for path, module in network.named_modules():
        if isinstance(module, RepVGGBlock):
            _split_repvgg(tensors, path, module)
        elif isinstance(module, QARepVGGBlock):
            _split_qarepvgg(tensors, path, module)
        elif isinstance(module, ConvModule):
            _split_bias(tensors, path)
    return tensors


def _split_bias(tensors: Tensors, path: str) -> None:
    """A convolution with bias -> one without, in front of a BatchNorm that adds the bias."""
    bias = tensors.pop(f"{path}.conv.bias", None)
    if bias is None:
        return
    mean = tensors.get(f"{path}.bn.running_mean")
    if mean is None:  # BatchNorm was folded
        tensors.update(_unit_batch_norm(f"{path}.bn", bias))
    elif mean.shape == bias.shape:  # releases before 0.4: a bias that BatchNorm subtracts again
        tensors[f"{path}.bn.running_mean"] = mean - bias
    else:
        raise CheckpointError(
            f"tensor {path}.conv.bias has shape {list(bias.shape)}, expected {list(mean.shape)}"
        )


def _split_repvgg(tensors: Tensors, path: str, block: RepVGGBlock) -> None:
    """Everything goes into the 3x3 branch; the others become zero."""
    if not _has_fused_kernel(tensors, path, block.rbr_dense.conv):
        return
    weight = tensors.pop(f"{path}.rbr_reparam.weight")
    bias = tensors.pop(f"{path}.rbr_reparam.bias")
    zeros = torch.zeros_like(bias)
    tensors[f"{path}.rbr_dense.conv.weight"] = weight
    tensors.update(_unit_batch_norm(f"{path}.rbr_dense.bn", bias))
    tensors[f"{path}.rbr_1x1.conv.weight"] = torch.zeros_like(weight[:, :, 1:2, 1:2])
    tensors.update(_unit_batch_norm(f"{path}.rbr_1x1.bn", zeros))
    if block.rbr_identity is not None:
        tensors.update(_unit_batch_norm(f"{path}.rbr_identity", zeros))
        tensors[f"{path}.rbr_identity.weight"] = zeros


def _split_qarepvgg(tensors: Tensors, path: str, block: QARepVGGBlock) -> None:
    """As for RepVGG, but the branches without parameters must be subtracted from the kernel."""
    if not _has_fused_kernel(tensors, path, block.rbr_dense.conv):
        return
    weight = tensors.pop(f"{path}.rbr_reparam.weight")
    bias = tensors.pop(f"{path}.rbr_reparam.bias")
    dense, channels = weight.double(), torch.arange(len(weight))
    if block.has_identity:
        dense[channels, channels, 1, 1] -= 1.0
    if block.rbr_avg is not None:
        dense[channels, channels] -= 1.0 / 9.0
    tensors[f"{path}.rbr_dense.conv.weight"] = dense.float()
    tensors.update(_unit_batch_norm(f"{path}.rbr_dense.bn", bias))
    tensors[f"{path}.rbr_1x1.weight"] = torch.zeros_like(weight[:, :, 1:2, 1:2])
    if f"{path}.bn.weight" not in tensors:
        tensors.update(_unit_batch_norm(f"{path}.bn", torch.zeros_like(bias)))


def _has_fused_kernel(tensors: Tensors, path: str, conv: nn.Conv2d) -> bool:
    weight = tensors.get(f"{path}.rbr_reparam.weight")
    if weight is None:
        return False
    bias = tensors.get(f"{path}.rbr_reparam.bias")
    if bias is None:
        raise CheckpointError(f"tensor {path}.rbr_reparam.bias is missing")
    if weight.shape != conv.weight.shape or bias.shape != weight.shape[:1]:
        raise CheckpointError(
            f"tensor {path}.rbr_reparam.weight has shape {list(weight.shape)} and a bias of shape "
            f"{list(bias.shape)}, expected {list(conv.weight.shape)} and {[conv.out_channels]}"
        )
    return True


def _unit_batch_norm(path: str, bias: Tensor) -> Tensors:
    """A BatchNorm that only adds ``bias`` [C]."""
    return {
        f"{path}.weight": torch.ones_like(bias),
        f"{path}.bias": bias,
        f"{path}.running_mean": torch.zeros_like(bias),
        f"{path}.running_var": torch.full_like(bias, 1.0 - BATCH_NORM_EPS),
    }
