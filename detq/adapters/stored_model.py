"""What reading a model file gives, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from detq.models.architecture import Architecture
from detq.records import SizeHW


@dataclass(frozen=True)
class StoredModel:
    """A network in training form (branches not fused), evaluation mode, float32.

    ``size_hw`` is the input size in pixels that it was trained for.
    """

    module: nn.Module
    architecture: Architecture
    class_names: tuple[str, ...]
    size_hw: SizeHW

    @property
    def parameter_count(self) -> int:
        """Trainable numbers, all branches counted."""
        return sum(parameter.numel() for parameter in self.module.parameters())
