"""The description of a network that Ultralytics' model files hold, checked word by word.

Ultralytics' own parser looks up what the description names, and evaluates some of its text. So
nothing goes into it but module names of this list, numbers, and the few words that belong there.
Errors are CheckpointErrors without the file's name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detq.errors import CheckpointError, shown
from detq.models.routed import INPUT

MAX_LAYERS = 200
MAX_REPEATS = 400
"""Of all layers together; the largest official networks have some 60."""
MAX_CLASSES = 10_000
MAX_CHANNELS = 8_192
MAX_COUNT = 64
_CHANNEL_ARGUMENTS = 3
"""So many arguments of a module may be numbers of channels, the others are counts."""
_RTDETR_WIDTH = 6
"""Which argument of RT-DETR's decoder is the width of its feed-forward networks."""

HEADS = {"Detect": "detect", "v10Detect": "detect", "RTDETRDecoder": "rtdetr"}
_CONVOLUTIONS = frozenset({"Conv", "DWConv", "ConvTranspose", "GhostConv", "nn.ConvTranspose2d"})
_LISTED = """
A2C2f AConv ADown AIFI Bottleneck BottleneckCSP C1 C2 C2PSA C2f C2fCIB C2fPSA C3 C3Ghost C3TR C3k2
C3x CBFuse CBLinear Concat ELAN1 Focus GhostBottleneck HGBlock HGStem PSA RepC3 RepNCSPELAN4
ResNetLayer SCDown SPP SPPELAN SPPF nn.BatchNorm2d nn.Identity nn.MaxPool2d nn.Upsample nn.ZeroPad2d
"""
_MODULES = _CONVOLUTIONS | frozenset(_LISTED.split())
_RENAMED = {"Silence": "nn.Identity"}  # in early files of YOLOv9
_WORDS = {"None": None, "True": True, "False": False}
_INTERPOLATIONS = ("nearest", "bilinear")
_ACTIVATIONS = frozenset(
    f"{prefix}nn.{call}"
    for prefix in ("", "torch.")
    for call in (
        *("ReLU()", "SiLU()", "ReLU6()", "Hardswish()", "GELU()", "Mish()", "Identity()"),
        *("LeakyReLU(0.1)", "LeakyReLU()"),
    )
)

Argument = None | bool | int | float | str | list[Any]


@dataclass(frozen=True)
class LayerConfig:
    """One line of a description. ``sources`` are layer numbers, -1 for the image."""

    sources: tuple[int, ...]
    listed: bool
    repeats: int
    module: str
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class ModelConfig:
    """A checked description: the layers, how many of them are the backbone, and their scaling.

    ``scale`` is the letter of the size, with its depth, width and greatest number of channels.
    """

    layers: tuple[LayerConfig, ...]
    backbone_count: int
    class_count: int
    scale: str
    depth: float
    width: float
    max_channels: float
    bins: int
    end_to_end: bool
    activation: str | None

    @property
    def is_rtdetr(self) -> bool:
        """True for RT-DETR, whose head is a transformer."""
        return HEADS[self.layers[-1].module] == "rtdetr"

    def document(self) -> dict[str, Any]:
        """The description as Ultralytics' parser takes it: new at each call, it is written to."""
        rows = [
            [
                list(layer.sources) if layer.listed else layer.sources[0],
                layer.repeats,
                layer.module,
                [list(a) if isinstance(a, list) else a for a in layer.arguments],
            ]
            for layer in self.layers
        ]
        document: dict[str, Any] = {
            "nc": self.class_count,
            "scale": self.scale,
            "scales": {self.scale: [self.depth, self.width, self.max_channels]},
            "backbone": rows[: self.backbone_count],
            "head": rows[self.backbone_count :],
            "end2end": self.end_to_end,
            "reg_max": self.bins,
        }
        return {**document, "activation": self.activation} if self.activation else document


def read_config(document: object) -> ModelConfig:
    """Check a description. Raises CheckpointError for whatever is not known to be harmless."""
    if not isinstance(document, Mapping):
        raise CheckpointError("holds no description of its network (`yaml`)")
    backbone, head = _rows(document, "backbone"), _rows(document, "head")
    rows = [*backbone, *head]
    class_count = _integer("nc", document.get("nc"), 1, MAX_CLASSES)
    scale, (depth, width, max_channels) = _scaling(document)
    layers = tuple(_layer(i, row, class_count, i == len(rows) - 1) for i, row in enumerate(rows))
    if len(layers) > MAX_LAYERS or sum(layer.repeats for layer in layers) > MAX_REPEATS:
        raise CheckpointError(f"describes a network of {len(layers)} layers; none is as deep")
    activation = document.get("activation")
    if activation is not None and (
        not isinstance(activation, str) or activation not in _ACTIVATIONS
    ):
        raise CheckpointError(
            f"activation {shown(activation)} is none that Ultralytics' models use"
        )
    return ModelConfig(
        layers=layers,
        backbone_count=len(backbone),
        class_count=class_count,
        scale=scale,
        depth=depth,
        width=width,
        max_channels=max_channels,
        bins=_integer("reg_max", document.get("reg_max", 16), 1, 64),
        end_to_end=document.get("end2end") is True,
        activation=activation,
    )


def _rows(document: Mapping[Any, Any], key: str) -> list[Any]:
    rows = document.get(key)
    if not isinstance(rows, list) or not rows:
        raise CheckpointError(f"the description of its network has no list of layers under {key!r}")
    return rows


def _scaling(document: Mapping[Any, Any]) -> tuple[str, tuple[float, float, float]]:
    """The letter of the size, and depth, width and greatest number of channels."""
    scales, letter = document.get("scales"), document.get("scale") or ""
    if not scales:
        numbers: Any = (
            document.get("depth_multiple", 1.0),
            document.get("width_multiple", 1.0),
            math.inf,
        )
    elif isinstance(scales, Mapping):
        letter = letter or next(iter(scales))
        numbers = scales.get(letter) if isinstance(letter, str) else None
    else:
        numbers = None
    known = isinstance(letter, str) and letter in ("", *"tnsmlbxe")
    if not known or not isinstance(numbers, list | tuple) or len(numbers) != 3:
        raise CheckpointError(f"the size {shown(letter)} is none that its description lists")
    depth = _number("depth", numbers[0], 0.01, 4)
    width = _number("width", numbers[1], 0.01, 8)
    return letter, (depth, width, _number("channels", numbers[2], 1, math.inf))


def _layer(index: int, row: object, class_count: int, is_last: bool) -> LayerConfig:
    where = f"layer {index}"
    if not isinstance(row, list | tuple) or len(row) != 4:
        raise CheckpointError(f"{where} is not [from, repeats, module, arguments]")
    sources, repeats, named, arguments = row
    module = _RENAMED.get(named, named) if isinstance(named, str) else ""
    if module not in (HEADS if is_last else _MODULES):
        expected = f"one of {', '.join(HEADS)}" if is_last else "a module of Ultralytics' detectors"
        raise CheckpointError(f"{where} is a {shown(named)}, expected {expected}")
    if not isinstance(arguments, list | tuple) or len(arguments) > 16:
        raise CheckpointError(f"{where}: its arguments are no list of a plausible length")
    listed = isinstance(sources, list | tuple)
    numbers = list(sources) if listed else [sources]
    if not 1 <= len(numbers) <= MAX_COUNT or (is_last and not listed):
        raise CheckpointError(f"{where} reads {len(numbers)} layers")
    return LayerConfig(
        sources=tuple(_source(where, index, number) for number in numbers),
        listed=listed,
        repeats=_integer(f"{where}: repeats", repeats, 1, MAX_COUNT),
        module=module,
        arguments=tuple(
            _argument(f"{where}: argument {place}", module, place, value, class_count)
            for place, value in enumerate(arguments)
        ),
    )


def _source(where: str, index: int, number: object) -> int:
    """The number of the layer that is read; the image for the first layer."""
    source = _integer(f"{where}: from", number, -MAX_LAYERS, MAX_LAYERS)
    if index == 0 and source == INPUT:
        return INPUT
    absolute = source if source >= 0 else index + source
    if not 0 <= absolute < index:
        raise CheckpointError(f"{where} reads layer {source}, which is not before it")
    return absolute


def _argument(where: str, module: str, place: int, value: object, class_count: int) -> Argument:
    of_rtdetr = HEADS.get(module) == "rtdetr" and place == _RTDETR_WIDTH
    is_width = place < _CHANNEL_ARGUMENTS or module in _CONVOLUTIONS or of_rtdetr
    limit = MAX_CHANNELS if is_width else MAX_COUNT
    if module.startswith("nn.") and module not in _CONVOLUTIONS:
        limit = MAX_COUNT
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value == "nc":
        return class_count
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    if module == "nn.Upsample" and isinstance(value, str) and value in _INTERPOLATIONS:
        return str(value)
    if isinstance(value, list | tuple) and len(value) <= MAX_COUNT:
        return [_number(where, item, -1, limit) for item in value]
    number: int | float = _number(where, value, -1, limit)
    return number


def _integer(where: str, value: object, low: int, high: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise CheckpointError(f"{where} is {shown(value)}, expected a whole number of {low} to {high}")


def _number(where: str, value: object, low: float, high: float) -> Any:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if plain and low <= value <= high:  # type: ignore[operator]
        return value
    raise CheckpointError(f"{where} is {shown(value)}, expected a number of {low} to {high}")
