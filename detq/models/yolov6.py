"""YOLOv6 networks: backbone, neck and head put together from an Architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from detq.models.architecture import AnyArchitecture, Neck, YOLOv6Architecture
from detq.models.blocks import BLOCKS, conv_relu, conv_silu
from detq.models.heads import Detect, ObjectnessDetect
from detq.models.lite import LiteBackbone, LiteNeck
from detq.models.stages import BiFusion, Transpose, build_merge, build_stage


def build(architecture: AnyArchitecture) -> YOLOv6:
    """The network with freshly initialised weights, in training form (branches not yet fused)."""
    if not isinstance(architecture, YOLOv6Architecture):
        return YOLOv6(LiteBackbone(architecture), LiteNeck(architecture), Detect(architecture))
    head = ObjectnessDetect if architecture.head == "objectness" else Detect
    return YOLOv6(Backbone(architecture), PyramidNeck(architecture), head(architecture))


class YOLOv6(nn.Module):
    """Images [B, 3, H, W] float32, RGB, 0..1 -> predictions [B, 4+nc, N].

    Rows: cx, cy, w, h in input pixels, then one score per class. H and W are multiples of the
    largest stride; N runs over levels (finest first), rows, columns.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, detect: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.detect = detect

    def forward(self, images: Tensor) -> Tensor:
        predictions: Tensor = self.detect(self.neck(self.backbone(images)))
        return predictions


class Backbone(nn.Module):
    """EfficientRep and CSPBepBackbone with 3 or 4 detection levels.

    [B, 3, H, W] -> list of maps at strides 4, 8, 16, … (P2, P3, P4, …).
    """

    def __init__(self, architecture: YOLOv6Architecture) -> None:
        super().__init__()
        block = BLOCKS[architecture.block]
        conv = conv_silu if architecture.merge_silu else conv_relu
        stages = architecture.backbone
        widths = (architecture.stem_channels, *(stage.channels for stage in stages))
        self.stem = block(3, widths[0], stride=2)
        for level, (stage, (above, width)) in enumerate(
            zip(stages, pairwise(widths), strict=True), start=2
        ):
            layers = [
                block(above, width, stride=2),
                build_stage(architecture.stage, architecture.block, width, stage),
            ]
            if stage is stages[-1]:
                layers.append(build_merge(architecture.merge, width, conv))
            self.add_module(f"ERBlock_{level}", nn.Sequential(*layers))

    def forward(self, images: Tensor) -> list[Tensor]:
        x: Tensor = self.stem(images)
        levels = []
        for name, stage in self.named_children():
            if name != "stem":
                x = stage(x)
                levels.append(x)
        return levels


@dataclass(frozen=True)
class NeckNames:
    """Child names of a neck with ``steps`` = levels − 1, numbered as the checkpoints do.

    ``reduce`` and ``top_down`` go from coarse to fine, ``downsample`` and ``bottom_up`` back.
    """

    steps: int

    @property
    def reduce(self) -> list[str]:
        return [f"reduce_layer{step}" for step in range(self.steps)]

    @property
    def top_down(self) -> list[str]:
        return [f"Rep_p{self.steps + 2 - step}" for step in range(self.steps)]

    @property
    def downsample(self) -> list[str]:
        return [f"downsample{2 - step}" for step in range(self.steps)]

    @property
    def bottom_up(self) -> list[str]:
        return [f"Rep_n{self.steps + 1 + step}" for step in range(self.steps)]

    def fusion(self, neck: Neck) -> list[str]:
        """What joins a lateral with the backbone's maps, coarse to fine."""
        stem = "Bifusion" if neck == "bifpan" else "upsample"
        return [f"{stem}{step}" for step in range(self.steps)]


class PyramidNeck(nn.Module):
    """RepPAN and RepBiFPAN with 3 or 4 levels: a top-down path, then a bottom-up path.

    List (P2, P3, P4, …) -> list (P3, P4, …); only the BiFPAN kind looks at P2.
    """

    def __init__(self, architecture: YOLOv6Architecture) -> None:
        super().__init__()
        self.kind = architecture.neck
        self.names = NeckNames(len(architecture.top_down))
        self._add_top_down(architecture)
        self._add_bottom_up(architecture)

    def _add_top_down(self, a: YOLOv6Architecture) -> None:
        names, fusions = self.names, self.names.fusion(a.neck)
        below = [stage.channels for stage in a.backbone]  # widths of P2, P3, …
        coarse = below.pop()
        for step, stage in enumerate(a.top_down):
            same, fine, width = below.pop(), below[-1], stage.channels
            self.add_module(names.reduce[step], conv_relu(coarse, width, 1))
            if a.neck == "bifpan":
                self.add_module(fusions[step], BiFusion(same, fine, width))
                fused = width
            else:
                self.add_module(fusions[step], Transpose(width))
                fused = width + same
            self.add_module(names.top_down[step], build_stage(a.stage, a.block, fused, stage))
            coarse = width

    def _add_bottom_up(self, a: YOLOv6Architecture) -> None:
        fine = a.top_down[-1].channels
        laterals = [stage.channels for stage in a.top_down]
        for step, (stage, width) in enumerate(zip(a.bottom_up, a.downsample, strict=True)):
            self.add_module(self.names.downsample[step], conv_relu(fine, width, 3, stride=2))
            fused = build_stage(a.stage, a.block, width + laterals.pop(), stage)
            self.add_module(self.names.bottom_up[step], fused)
            fine = stage.channels

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        below, laterals = list(features), []
        x = below.pop()
        for step, fusion in enumerate(self.names.fusion(self.kind)):
            lateral = self.get_submodule(self.names.reduce[step])(x)
            same, fine = below.pop(), below[-1]
            fuse = self.get_submodule(fusion)
            if self.kind == "bifpan":
                fused = fuse(lateral, same, fine)
            else:
                fused = torch.cat((fuse(lateral), same), dim=1)
            x = self.get_submodule(self.names.top_down[step])(fused)
            laterals.append(lateral)
        levels = [x]
        for downsample, stage in zip(self.names.downsample, self.names.bottom_up, strict=True):
            smaller = self.get_submodule(downsample)(levels[-1])
            fused = torch.cat((smaller, laterals.pop()), dim=1)
            levels.append(self.get_submodule(stage)(fused))
        return levels
