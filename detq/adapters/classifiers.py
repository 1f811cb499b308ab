"""State dicts of re-parameterized classifiers -> our own network with the stored weights.

Read are RepVGG and RepVGGplus as their repository saves them, training and deploy form, and timm's
``repvgg_*`` and ``mobileone_*``. Depth, widths, groups, branches, squeeze and excite and the number
of classes are read off names and shapes, whatever a file is called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from detq.adapters.stored_model import StoredModel
from detq.adapters.tensors import COUNTER, check_values, fill
from detq.errors import CheckpointError, shown
from detq.models.classifiers import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RGB,
    ChainClassifier,
    ClassifierArchitecture,
    Layer,
)
from detq.records import placeholder_names

WRAPPERS = ("state_dict", "state_dict_ema", "model_ema", "model")
"""Keys under which training programs keep the state dict."""

_LAYER = re.compile(
    r"(?P<layer>stem|stage\d+(?:_first|_second)?(?:\.blocks)?(?:\.\d+)?|stages\.\d+\.\d+)"
    r"\.(?P<rest>\D.*)"
)
_OURS = (  # what a layer's parts are called in files -> in our network
    (re.compile(r"rbr_dense\."), "branches.0."),
    (re.compile(r"conv_kxk\.(?=\d)"), "branches."),
    (re.compile(r"conv_kxk\."), "branches.0."),
    (re.compile(r"(?:rbr_1x1|conv_1x1|conv_scale)\."), "pointwise."),
    (re.compile(r"(?:rbr_)?identity\."), "identity."),
    (re.compile(r"(?:rbr_reparam|reparam_conv)\."), "fused."),
    (re.compile(r"post_se\."), "squeeze_after."),
    (re.compile(r"(?:se|attn)\."), "squeeze_before."),
)
_SQUEEZE = {".fc1.": ".down.", ".fc2.": ".up."}
_LAST = {"head.fc.": "linear.", "linear.": "linear."}
_AUXILIARY = re.compile(r"stage\w+_aux\.")  # RepVGGplus' heads for training
_CONTINUED = "stage3_second"  # RepVGGplus splits its third stage in two
_DEFAULT_SIDE_PX = 224


@dataclass(frozen=True)
class Facts:
    """What a state dict leaves open; published models agree on the defaults.

    ``strides`` are those of the first layers of the stages, from the stem on.
    """

    class_names: tuple[str, ...] | None = None
    strides: tuple[int, ...] | None = None
    side_px: int = _DEFAULT_SIDE_PX
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD


def find_state(root: object) -> dict[str, Any] | None:
    """The state dict of a classifier in what a file holds, wrapped or bare; None if there is none.

    Keys lose the ``module.`` that parallel training puts before them.
    """
    if not isinstance(root, Mapping):
        return None
    for candidate in (root, *(root.get(name) for name in WRAPPERS)):
        if isinstance(candidate, Mapping) and all(isinstance(key, str) for key in candidate):
            state = {key.removeprefix("module."): value for key, value in candidate.items()}
            if f"{_last(state)}weight" in state and any(_LAYER.fullmatch(key) for key in state):
                return state
    return None


def read_facts(root: Mapping[str, Any]) -> Facts:
    """What stands beside a state dict: ``names``, ``strides``, ``imgsz``, ``mean``, ``std``.

    Raises CheckpointError, without the file's name, for values of another kind.
    """
    if not any(key in root for key in WRAPPERS):
        return Facts()
    default = Facts()
    names, strides = root.get("names"), root.get("strides")
    side = root.get("imgsz", default.side_px)
    if names is not None and not _is_list_of(names, str):
        raise CheckpointError("names: expected a list of text")
    if strides is not None and not _is_list_of(strides, int):
        raise CheckpointError("strides: expected a list of whole numbers")
    if not isinstance(side, int) or side < 1:
        raise CheckpointError(f"imgsz: expected pixels, got {shown(side)}")
    return Facts(
        None if names is None else tuple(names),
        None if strides is None else tuple(strides),
        side,
        _colour(root, "mean", default.mean),
        _colour(root, "std", default.std),
    )


def build_classifier(tensors: Mapping[str, Tensor], facts: Facts) -> StoredModel:
    """A state dict's tensors, under any of the known names -> the network.

    Raises CheckpointError, without the file's name, for a tensor that is missing, left over or of
    a wrong shape, and DetqError for an impossible architecture.
    """
    ours = {
        key: tensor.float()
        for key, tensor in translated(tensors).items()
        if not key.endswith(COUNTER)
    }
    for key, tensor in ours.items():
        check_values(key, tensor)
    architecture = infer_architecture(ours, facts)
    with torch.device("meta"):  # shapes only: a lying file cannot make us allocate
        module = ChainClassifier(architecture)
    fill(module, ours)
    names = facts.class_names or placeholder_names(architecture.class_count)
    if len(names) != architecture.class_count:
        raise CheckpointError(f"{len(names)} class names for {architecture.class_count} classes")
    return StoredModel(
        module.eval().requires_grad_(False), architecture, names, (facts.side_px, facts.side_px)
    )


def translated(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The same under our names. Raises CheckpointError for a tensor of no known layer."""
    ours = {}
    for key, tensor in tensors.items():
        if _AUXILIARY.match(key):
            continue
        match = _LAYER.fullmatch(key)
        if match is not None:
            ours[f"{match['layer']}.{_our_part(match['rest'])}"] = tensor
            continue
        prefix = next((prefix for prefix in _LAST if key.startswith(prefix)), None)
        if prefix is None:
            raise CheckpointError(f"tensor {key} belongs to no part of a RepVGG or MobileOne")
        ours[_LAST[prefix] + key.removeprefix(prefix)] = tensor
    return ours


def infer_architecture(tensors: Mapping[str, Tensor], facts: Facts) -> ClassifierArchitecture:
    """The network that tensors under our names belong to."""
    parts: dict[str, set[str]] = {}
    for key in tensors:
        match = _LAYER.fullmatch(key)
        if match is not None:
            parts.setdefault(match["layer"], set()).add(match["rest"])
    stages = [list(names) for _, names in groupby(sorted(parts, key=_order), key=_stage)]
    strides = facts.strides or tuple(
        1 if _stage(names[0]).startswith(_CONTINUED) else 2 for names in stages
    )
    if len(strides) != len(stages):
        raise CheckpointError(f"strides of {len(strides)} stages, the network has {len(stages)}")
    layers: list[Layer] = []
    channels = 3
    for names, stride in zip(stages, strides, strict=True):
        for index, name in enumerate(names):
            step = 1 if index else stride
            layers.append(_layer(name, parts[name], tensors, channels, step))
            channels = layers[-1].channels
    last = tensors.get("linear.weight")
    if last is None or last.dim() != 2:
        raise CheckpointError("tensor linear.weight is missing or no matrix")
    return ClassifierArchitecture(tuple(layers), last.shape[0], facts.mean, facts.std)


def _layer(
    name: str, parts: set[str], tensors: Mapping[str, Tensor], in_channels: int, stride: int
) -> Layer:
    fused = "fused.weight" in parts
    branches = sum(part.startswith("branches.") and part.endswith("conv.weight") for part in parts)
    main = "fused" if fused else "branches.0.conv" if branches else "pointwise.conv"
    weight = tensors.get(f"{name}.{main}.weight")
    if weight is None or weight.dim() != 4 or not weight.shape[1]:
        raise CheckpointError(f"{name}: has no convolution of four dimensions")
    channels, per_group, kernel, _ = weight.shape
    if in_channels % per_group:
        raise CheckpointError(
            f"{name}: reads {per_group} channels per group, the layer before has {in_channels}"
        )
    place = "after" if "squeeze_after.down.weight" in parts else "before"
    squeeze = tensors.get(f"{name}.squeeze_{place}.down.weight")
    return Layer(
        name=name,
        in_channels=in_channels,
        channels=channels,
        kernel=kernel,
        stride=stride,
        groups=in_channels // per_group,
        branches=branches,
        pointwise="pointwise.conv.weight" in parts,
        identity="identity.weight" in parts,
        fused=fused,
        squeeze=0 if squeeze is None else len(squeeze),
        squeeze_place="after" if place == "after" else "before",
    )


def _our_part(rest: str) -> str:
    for theirs, ours in _OURS:
        if match := theirs.match(rest):
            rest = ours + rest[match.end() :]
            break
    for theirs_squeeze, ours_squeeze in _SQUEEZE.items():
        rest = rest.replace(theirs_squeeze, ours_squeeze)
    return rest


def _last(state: Mapping[str, Any]) -> str:
    """How the names of the linear function's tensors begin."""
    return next((prefix for prefix in _LAST if f"{prefix}weight" in state), "linear.")


def _stage(layer: str) -> str:
    """``stage3`` for ``stage3.13``, ``stages.0`` for ``stages.0.1``."""
    return re.sub(r"(?<=\w)\.\d+$", "", layer)


def _order(layer: str) -> tuple[object, ...]:
    """Sorts layers in the order of the data flow: the stem first, numbers by value."""
    steps = re.split(r"(\d+)", layer)
    return layer != "stem", *(int(step) if step.isdigit() else step for step in steps)


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, kind) for item in value)


def _colour(root: Mapping[str, Any], key: str, default: RGB) -> RGB:
    value = root.get(key, default)
    if not _is_list_of(value, float) or len(value) != 3:
        raise CheckpointError(f"{key}: expected three numbers, one per colour")
    red, green, blue = value
    return red, green, blue
