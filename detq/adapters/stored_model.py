"""What reading a model file gives, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from detq.models.architecture import AnyArchitecture
from detq.records import SizeHW

if TYPE_CHECKING:
    from detq.adapters.ultralytics import UltralyticsArchitecture


@dataclass(frozen=True)
class StoredModel:
    """A network in training form (branches not fused), evaluation mode, float32.

    ``size_hw`` is the input size in pixels that it was trained for.
    """

    module: nn.Module
    architecture: AnyArchitecture | UltralyticsArchitecture
    class_names: tuple[str, ...]
    size_hw: SizeHW

    @property
    def parameter_count(self) -> int:
        """Trainable numbers, all branches counted."""
        return sum(parameter.numel() for parameter in self.module.parameters())
