"""The 31 official YOLOv6 configurations, and the arithmetic from one to an Architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, cast

from detq.errors import ConfigError
from detq.models.architecture import (
    AnyArchitecture,
    LiteArchitecture,
    Neck,
    Stage,
    StageKind,
    YOLOv6Architecture,
)
from detq.models.blocks import BlockKind


@dataclass(frozen=True)
class Configuration:
    """A network before its widths and depths are multiplied; the defaults are the usual ones.

    ``csp`` is the ratio of inner to outer width of a ``csp`` or ``mbla`` stage.
    """

    block: BlockKind = "repvgg"
    stage: StageKind = "rep"
    csp: float = 0.5
    neck: Neck = "bifpan"
    csp_pooling: bool = False
    distributions: bool = False
    backbone_channels: tuple[int, ...] = (64, 128, 256, 512, 1024)
    backbone_repeats: tuple[int, ...] = (1, 6, 12, 18, 6)
    neck_channels: tuple[int, ...] = (256, 128, 128, 256, 256, 512)
    neck_repeats: tuple[int, ...] = (12, 12, 12, 12)

    def resolve(self, width: float, depth: float, class_count: int) -> YOLOv6Architecture:
        """Multiply and round. Raises DetqError if the result is no possible network."""
        stem, *backbone = (_scale_width(value, width) for value in self.backbone_channels)
        neck = [_scale_width(value, width) for value in self.neck_channels]
        repeats = [_scale_depth(value, depth) for value in self.backbone_repeats[1:]]
        neck_repeats = [_scale_depth(value, depth) for value in self.neck_repeats]
        steps = len(self.neck_repeats) // 2
        if steps == 2:  # widths: two laterals, then downsample and stage in turn
            downsample, bottom_up = neck[2::2], neck[3::2]
        else:  # widths: three laterals, three stages; a downsampling keeps the width it gets
            downsample, bottom_up = neck[2:5], neck[3:]
        # The 4-level EfficientRep pools with ReLU whatever its blocks use.
        silu = self.block == "conv_silu" and (self.stage != "rep" or steps == 2)
        return YOLOv6Architecture(
            block=self.block,
            stage=self.stage,
            stem_channels=stem,
            backbone=self._stages(backbone, repeats),
            merge="cspsppf" if self.csp_pooling else "sppf",
            merge_silu=silu,
            neck=self.neck,
            top_down=self._stages(neck[:steps], neck_repeats[:steps]),
            downsample=tuple(downsample),
            bottom_up=self._stages(bottom_up, neck_repeats[steps:]),
            class_count=class_count,
            regression_channels=68 if self.distributions else 4,
        )

    def _stages(self, widths: list[int], repeats: list[int]) -> tuple[Stage, ...]:
        pairs = zip(widths, repeats, strict=True)
        if self.stage == "rep":
            return tuple(Stage(width, repeat) for width, repeat in pairs)
        return tuple(
            Stage(width, max(repeat // 2, 1), hidden=int(width * self.csp))
            for width, repeat in pairs
        )


def _four_levels(configuration: Configuration) -> Configuration:
    return replace(
        configuration,
        backbone_channels=(64, 128, 256, 512, 768, 1024),
        backbone_repeats=(1, 6, 12, 18, 6, 6),
        neck_channels=(512, 256, 128, 256, 512, 1024),
        neck_repeats=(12, 12, 12, 12, 12, 12),
    )


_CSP = Configuration(stage="csp", csp=2 / 3, distributions=True)
_SMALL = Configuration(csp_pooling=True)
_LARGE = Configuration("conv_silu", "csp", distributions=True)
_BASE_N = Configuration("conv_relu", csp_pooling=True, distributions=True)
_BASE_S = Configuration("conv_relu", "csp", csp_pooling=True, distributions=True)
_BASE = Configuration("conv_relu", "csp", distributions=True)
_MBLA = Configuration(
    "conv_silu",
    "mbla",
    distributions=True,
    backbone_repeats=(1, 4, 8, 8, 4),
    neck_repeats=(8, 8, 8, 8),
)
_SCALED = Configuration(stage="csp", neck="pan")
_QA = Configuration("qarepvggv2", csp_pooling=True)
_QA_M = Configuration("qarepvggv2", "csp", csp=2 / 3, distributions=True)
_TINY = Configuration(neck="pan")
_REPOPT = Configuration("repopt", neck="pan")
_SEARCH = Configuration("hyper_search", neck="pan")

# name: (configuration, width multiple, depth multiple)
_OFFICIAL: Mapping[str, tuple[Configuration, float, float]] = {
    "yolov6n": (_SMALL, 0.25, 0.33),
    "yolov6s": (_SMALL, 0.5, 0.33),
    "yolov6m": (_CSP, 0.75, 0.6),
    "yolov6l": (_LARGE, 1.0, 1.0),
    "yolov6n6": (_four_levels(_SMALL), 0.25, 0.33),
    "yolov6s6": (_four_levels(_SMALL), 0.5, 0.33),
    "yolov6m6": (_four_levels(_CSP), 0.75, 0.6),
    "yolov6l6": (_four_levels(_LARGE), 1.0, 1.0),
    "yolov6n_base": (_BASE_N, 0.25, 0.33),
    "yolov6s_base": (_BASE_S, 0.5, 0.7),
    "yolov6m_base": (_BASE, 0.75, 0.8),
    "yolov6l_base": (_BASE, 1.0, 1.0),
    "yolov6s_mbla": (_MBLA, 0.5, 0.5),
    "yolov6m_mbla": (_MBLA, 0.75, 0.5),
    "yolov6l_mbla": (_MBLA, 1.0, 0.5),
    "yolov6x_mbla": (_MBLA, 1.0, 1.0),
    "yolov6t": (_TINY, 0.375, 0.33),
    "yolov6s_csp_scaled": (_SCALED, 0.5, 0.7),
    "yolov6t_csp_scaled": (_SCALED, 0.5, 0.6),
    "yolov6n_qa": (_QA, 0.25, 0.33),
    "yolov6s_qa": (_QA, 0.5, 0.33),
    "yolov6m_qa": (_QA_M, 0.75, 0.6),
    "yolov6n_opt": (_REPOPT, 0.25, 0.33),
    "yolov6s_opt": (_REPOPT, 0.5, 0.33),
    "yolov6_tiny_opt": (_REPOPT, 0.375, 0.33),
    "yolov6n_hs": (_SEARCH, 0.25, 0.33),
    "yolov6s_hs": (_SEARCH, 0.5, 0.33),
    "yolov6_tiny_hs": (_SEARCH, 0.375, 0.33),
}
_LITE_WIDTHS = {"yolov6_lite_s": 0.7, "yolov6_lite_m": 1.1, "yolov6_lite_l": 1.5}

OFFICIAL_NAMES: tuple[str, ...] = (*_OFFICIAL, *_LITE_WIDTHS)


def official(
    name: str,
    *,
    class_count: int,
    width_multiple: float | None = None,
    depth_multiple: float | None = None,
) -> AnyArchitecture:
    """The architecture of an official configuration; ConfigError lists the names if unknown.

    The multiples default to its own; Lite has no depth multiple. Raises DetqError for a value out
    of range.
    """
    if name in _LITE_WIDTHS:
        width = _LITE_WIDTHS[name] if width_multiple is None else width_multiple
        return _resolve_lite((24, 32, 64, 128, 256), (1, 3, 7, 3), width, class_count)
    if name not in _OFFICIAL:
        raise ConfigError(f"{name}: unknown configuration; known are {', '.join(OFFICIAL_NAMES)}")
    configuration, width, depth = _OFFICIAL[name]
    width = width if width_multiple is None else width_multiple
    depth = depth if depth_multiple is None else depth_multiple
    return configuration.resolve(width, depth, class_count)


def from_document(
    document: Mapping[str, Any],
    *,
    class_count: int,
    width_multiple: float | None = None,
    depth_multiple: float | None = None,
) -> AnyArchitecture:
    """Resolve a configuration that has the structure of YOLOv6's own files.

    The multiples default to the document's. Raises ConfigError for a missing entry and DetqError
    for a value out of range.
    """
    try:
        width = document["width_multiple"] if width_multiple is None else width_multiple
        depth = document["depth_multiple"] if depth_multiple is None else depth_multiple
        backbone, neck = document["backbone"], document["neck"]
        channels, repeats = tuple(backbone["out_channels"]), tuple(backbone["num_repeats"])
        if backbone["type"] == "Lite_EffiBackbone":
            return _resolve_lite(channels, repeats, width, class_count)
        rep = backbone["type"].startswith("EfficientRep")
        mbla = backbone.get("stage_block_type", "BepC3") == "MBLABlock"
        configuration = Configuration(
            block=cast(BlockKind, document.get("training_mode", "repvgg")),
            stage="rep" if rep else "mbla" if mbla else "csp",
            csp=backbone.get("csp_e", 0.5),
            neck="bifpan" if "BiFPAN" in neck["type"] else "pan",
            csp_pooling=bool(backbone.get("cspsppf", False)),
            distributions=document["head"]["use_dfl"],
            backbone_channels=channels,
            backbone_repeats=repeats,
            neck_channels=tuple(neck["out_channels"]),
            neck_repeats=tuple(neck["num_repeats"]),
        )
    except KeyError as error:
        raise ConfigError(f"YOLOv6 configuration: entry {error} is missing") from None
    return configuration.resolve(width, depth, class_count)


def _scale_width(channels: int, multiple: float) -> int:
    """Up to the next multiple of 8."""
    return ceil(channels * multiple / 8) * 8


def _scale_depth(repeats: int, multiple: float) -> int:
    """To the nearest integer, halves to even; a single repeat stays single."""
    return max(round(repeats * multiple), 1) if repeats > 1 else repeats


def _resolve_lite(
    channels: tuple[int, ...], repeats: tuple[int, ...], width: float, class_count: int
) -> LiteArchitecture:
    """The Lite family's own arithmetic: no depth multiple, the stem and the neck never change."""
    widths = [_divisible(value * width, 16) for value in channels[1:]]
    hidden = [_divisible(int(value / 2), 8) for value in widths]
    stages = zip(widths, repeats, hidden, strict=True)
    return LiteArchitecture(
        stem_channels=24,
        backbone=tuple(Stage(*stage) for stage in stages),
        neck_channels=96,
        class_count=class_count,
    )


def _divisible(value: float, divisor: int) -> int:
    """The nearest multiple of ``divisor`` (halves up), never more than 10% below ``value``."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
