"""What every network says of itself, and what a YOLOv6 network looks like, width by width."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, get_args

from detq.contract import Task
from detq.errors import DetqError
from detq.models.blocks import BlockKind
from detq.records import Fit

StageKind = Literal["rep", "csp", "mbla"]
Neck = Literal["pan", "bifpan"]
Merge = Literal["sppf", "cspsppf"]
Head = Literal["distance", "objectness"]

MAX_WIDTH = 65_536  # channels, classes, blocks: far above any real model, far below an overflow
DFL_BINS = 17  # a distance is the mean of a distribution over 0..16 strides


class Architecture(Protocol):
    """What is known of a network beside its weights, whatever family it is of.

    Each family has a frozen dataclass for it. The names are those of ``ModelSpec``, which a loaded
    model's architecture fills.
    """

    @property
    def family(self) -> str:
        """What its blocks are."""

    @property
    def task(self) -> Task:
        """What the network does."""

    @property
    def class_count(self) -> int:
        """How many classes it scores."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each level, finest first."""

    @property
    def end_to_end(self) -> bool:
        """True if it gives one prediction per object, so that nothing is to be suppressed."""

    @property
    def fit(self) -> Fit:
        """How it was trained to see images."""


@dataclass(frozen=True)
class Stage:
    """One stage: ``depth`` units that end in ``channels`` channels.

    A unit is a block (kind ``rep``), a BottleRep (``csp``), a step of the longest chain (``mbla``)
    or an EffiBlock (Lite). ``hidden`` is the inner width, 0 for ``rep``, which has none.
    """

    channels: int
    depth: int
    hidden: int = 0

    def __post_init__(self) -> None:
        _check_widths("Stage", (self.channels, self.depth))
        if not 0 <= self.hidden <= MAX_WIDTH:
            raise DetqError(f"Stage.hidden must be in 0..{MAX_WIDTH}, got {self.hidden}")


@dataclass(frozen=True)
class YOLOv6Architecture:
    """A YOLOv6 network of any family but Lite.

    ``backbone`` lists the stages at strides 4, 8, 16, … With L detection levels (3, or 4 for the
    P6 families) the neck has L−1 stages in ``top_down`` (coarse to fine, also the widths of the
    lateral convolutions), L−1 in ``bottom_up`` (fine to coarse) and L−1 widths in ``downsample``.
    ``regression_channels`` is 4 (plain distances) or 68 (distributions over 17 bins for 4 sides).
    ``merge_silu`` says that the pooling at the end of the backbone uses SiLU in place of ReLU.
    """

    block: BlockKind
    stage: StageKind
    stem_channels: int
    backbone: tuple[Stage, ...]
    merge: Merge
    merge_silu: bool
    neck: Neck
    top_down: tuple[Stage, ...]
    downsample: tuple[int, ...]
    bottom_up: tuple[Stage, ...]
    class_count: int
    regression_channels: int = 4
    head: Head = "distance"
    family: ClassVar[str] = "yolov6"
    task: ClassVar[Task] = "detect"
    end_to_end: ClassVar[bool] = False
    fit: ClassVar[Fit] = "yolov6"

    def __post_init__(self) -> None:
        _check_choice("block", self.block, get_args(BlockKind))
        _check_choice("stage", self.stage, get_args(StageKind))
        _check_choice("merge", self.merge, get_args(Merge))
        _check_choice("neck", self.neck, get_args(Neck))
        _check_choice("head", self.head, get_args(Head))
        _check_widths("Architecture", (self.stem_channels, self.class_count, *self.downsample))
        _check_choice("regression_channels", self.regression_channels, (4, 4 * DFL_BINS))
        _check_choice("number of backbone stages", len(self.backbone), (4, 5))
        for name in ("top_down", "downsample", "bottom_up"):
            expected, actual = len(self.backbone) - 2, len(getattr(self, name))
            if actual != expected:
                raise DetqError(f"Architecture.{name}: expected {expected} entries, got {actual}")
        if self.stage != "rep" and not all(stage.hidden for stage in self.stages):
            raise DetqError(f"Architecture: every {self.stage} stage needs a hidden width")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Every stage, in the order of the data flow."""
        return (*self.backbone, *self.top_down, *self.bottom_up)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each detection level, finest first."""
        return (8, 16, 32, 64)[: len(self.bottom_up) + 1]

    @property
    def head_channels(self) -> tuple[int, ...]:
        """Width of each detection level, finest first."""
        return (self.top_down[-1].channels, *(stage.channels for stage in self.bottom_up))


@dataclass(frozen=True)
class LiteArchitecture:
    """A YOLOv6-Lite network.

    ``backbone`` lists the four stages at strides 4 to 32; ``hidden`` of a stage is the width inside
    its EffiBlocks. The neck and the head have ``neck_channels`` everywhere.
    """

    stem_channels: int
    backbone: tuple[Stage, ...]
    neck_channels: int
    class_count: int
    regression_channels: Literal[4] = 4
    family: ClassVar[str] = "yolov6"
    task: ClassVar[Task] = "detect"
    end_to_end: ClassVar[bool] = False
    fit: ClassVar[Fit] = "yolov6"

    def __post_init__(self) -> None:
        _check_widths(
            "LiteArchitecture", (self.stem_channels, self.neck_channels, self.class_count)
        )
        _check_choice("number of backbone stages", len(self.backbone), (4,))
        widths = (self.neck_channels, *(stage.channels for stage in self.backbone))
        hidden = tuple(stage.hidden for stage in self.backbone)
        if any(width % 2 for width in (*widths, *hidden)) or min(hidden) < 8:
            raise DetqError(
                f"LiteArchitecture: widths must be even and hidden widths at least 8, got "
                f"{widths} and {hidden}"
            )

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each detection level, finest first."""
        return (8, 16, 32, 64)

    @property
    def head_channels(self) -> tuple[int, ...]:
        """Width of each detection level, finest first."""
        return (self.neck_channels,) * len(self.strides)


AnyArchitecture = YOLOv6Architecture | LiteArchitecture


def _check_choice(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        listed = ", ".join(str(choice) for choice in known)
        raise DetqError(f"{name}: expected one of {listed}; got {value!r}")


def _check_widths(owner: str, widths: Iterable[int]) -> None:
    wrong = [width for width in widths if not 1 <= width <= MAX_WIDTH]
    if wrong:
        raise DetqError(f"{owner}: widths and depths must be in 1..{MAX_WIDTH}, got {wrong[0]}")
