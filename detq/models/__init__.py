"""YOLOv6 networks in torch, how they are built; and how any network is fused."""

from detq.models.architecture import (
    AnyArchitecture,
    Architecture,
    LiteArchitecture,
    Stage,
    YOLOv6Architecture,
)
from detq.models.configurations import OFFICIAL_NAMES, from_document, official
from detq.models.reparam import FoundBlock, FusedBranches, fuse_branches
from detq.models.yolov6 import YOLOv6, build

__all__ = [
    "OFFICIAL_NAMES",
    "AnyArchitecture",
    "Architecture",
    "FoundBlock",
    "FusedBranches",
    "LiteArchitecture",
    "Stage",
    "YOLOv6",
    "YOLOv6Architecture",
    "build",
    "from_document",
    "fuse_branches",
    "official",
]
