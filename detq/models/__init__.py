"""YOLOv6 networks in torch: what they look like, how they are built, how they are fused."""

from detq.models.architecture import AnyArchitecture, Architecture, LiteArchitecture, Stage
from detq.models.configurations import OFFICIAL_NAMES, from_document, official
from detq.models.fuse import Fused, fuse
from detq.models.yolov6 import YOLOv6, build

__all__ = [
    "OFFICIAL_NAMES",
    "AnyArchitecture",
    "Architecture",
    "Fused",
    "LiteArchitecture",
    "Stage",
    "YOLOv6",
    "build",
    "from_document",
    "fuse",
    "official",
]
