"""What reading a model file gives, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from detq.contract import Task
from detq.models.architecture import AnyArchitecture
from detq.models.classifiers import ClassifierArchitecture
from detq.records import SizeHW

if TYPE_CHECKING:
    from detq.adapters.ultralytics import UltralyticsArchitecture


@dataclass(frozen=True)
class StoredModel:
    """A network in training form (branches not fused), evaluation mode, float32.

    ``size_hw`` is the input size in pixels that it was trained for.
    """

    module: nn.Module
    architecture: AnyArchitecture | ClassifierArchitecture | UltralyticsArchitecture
    class_names: tuple[str, ...]
    size_hw: SizeHW

    @property
    def task(self) -> Task:
        """What the network does."""
        return "classify" if isinstance(self.architecture, ClassifierArchitecture) else "detect"

    @property
    def family(self) -> str:
        """What its blocks are."""
        if not isinstance(self.architecture, ClassifierArchitecture):
            return "yolov6"
        pointwise = any(layer.kernel == 1 for layer in self.architecture.layers)
        return "mobileone" if pointwise else "repvgg"

    @property
    def parameter_count(self) -> int:
        """Trainable numbers, all branches counted."""
        return sum(parameter.numel() for parameter in self.module.parameters())
