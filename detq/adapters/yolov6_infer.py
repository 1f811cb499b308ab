"""What a stored YOLOv6 network looks like, from its class names and tensor shapes.

A checkpoint carries no configuration. Errors are CheckpointErrors without the file's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from detq.adapters.yolov6_tree import StoredNetwork
from detq.errors import CheckpointError
from detq.models.architecture import (
    AnyArchitecture,
    LiteArchitecture,
    Merge,
    Neck,
    Stage,
    StageKind,
    YOLOv6Architecture,
)
from detq.models.blocks import BlockKind
from detq.models.stages import branch_lengths
from detq.models.yolov6 import NeckNames

Value = TypeVar("Value")

_LEVELS: Mapping[str, int] = {
    "EfficientRep": 3,
    "CSPBepBackbone": 3,
    "EfficientRep6": 4,
    "CSPBepBackbone_P6": 4,
}
_BLOCKS: Mapping[str, BlockKind] = {
    "RepVGGBlock": "repvgg",
    "QARepVGGBlock": "qarepvgg",
    "QARepVGGBlockV2": "qarepvggv2",
    "RealVGGBlock": "repopt",
    "LinearAddBlock": "hyper_search",
    "ConvBNReLU": "conv_relu",
    "SimConvWrapper": "conv_relu",
    "ConvBNSiLU": "conv_silu",
    "ConvWrapper": "conv_silu",
}
_STAGES: Mapping[str, StageKind] = {"RepBlock": "rep", "BepC3": "csp", "MBLABlock": "mbla"}
_NECKS: Mapping[str, Neck] = {
    "RepPANNeck": "pan",
    "RepPANNeck6": "pan",
    "CSPRepPANNeck": "pan",
    "CSPRepPANNeck_P6": "pan",
    "RepBiFPANNeck": "bifpan",
    "RepBiFPANNeck6": "bifpan",
    "CSPRepBiFPANNeck": "bifpan",
    "CSPRepBiFPANNeck_P6": "bifpan",
}
_MERGES: Mapping[str, tuple[Merge, bool]] = {  # name, and whether it uses SiLU
    "SimSPPF": ("sppf", False),
    "SPPF": ("sppf", True),
    "SimCSPSPPF": ("cspsppf", False),
    "CSPSPPF": ("cspsppf", True),
}
# Where the convolution that sets a module's output width lies inside it.
_WIDTH_KEYS = (
    "weight",
    "conv.weight",
    "block.conv.weight",
    "rbr_dense.conv.weight",
    "rbr_reparam.weight",
)


def infer_architecture(network: StoredNetwork) -> AnyArchitecture:
    """The architecture of a stored network; CheckpointError says what is unknown or missing."""
    backbone = network.kind("backbone")
    if backbone == "Lite_EffiBackbone":
        return _infer_lite(network)
    if backbone not in _LEVELS:
        raise CheckpointError(f"backbone {backbone} is of no known family")
    levels = _LEVELS[backbone]
    names, last = NeckNames(levels - 1), f"backbone.ERBlock_{levels + 2}"
    kind = _known(_STAGES, network, "backbone.ERBlock_2.1")
    merge, silu = _known(_MERGES, network, f"{last}.2")
    objectness = "detect.obj_preds.0" in network.modules
    return YOLOv6Architecture(
        block=_known(_BLOCKS, network, "backbone.stem"),
        stage=kind,
        stem_channels=_width(network, "backbone.stem"),
        backbone=tuple(
            _infer_stage(network, kind, f"backbone.ERBlock_{level}.1")
            for level in range(2, levels + 3)
        ),
        merge=merge,
        merge_silu=silu,
        neck=_known(_NECKS, network, "neck"),
        top_down=tuple(_infer_stage(network, kind, f"neck.{name}") for name in names.top_down),
        downsample=tuple(_width(network, f"neck.{name}") for name in names.downsample),
        bottom_up=tuple(_infer_stage(network, kind, f"neck.{name}") for name in names.bottom_up),
        class_count=_width(network, "detect.cls_preds.0"),
        regression_channels=_width(network, "detect.reg_preds.0"),
        head="objectness" if objectness else "distance",
    )


def _infer_stage(network: StoredNetwork, kind: StageKind, path: str) -> Stage:
    actual = _known(_STAGES, network, path)
    if actual != kind:
        raise CheckpointError(f"module {path} is a {actual} stage among {kind} stages")
    if kind == "rep":
        depth = 1 + network.count(f"{path}.block")
        return Stage(_width(network, f"{path}.conv1"), depth)
    if kind == "csp":
        depth = 1 + network.count(f"{path}.m.block")
        return Stage(_width(network, f"{path}.cv3"), depth, _width(network, f"{path}.cv1"))
    chains = network.count(f"{path}.m")
    lengths = (0, *(network.count(f"{path}.m.{chain}") for chain in range(chains)))
    if lengths[-1] < 1 or lengths != branch_lengths(lengths[-1]):
        raise CheckpointError(f"module {path} has chains of unknown lengths {lengths[:8]}")
    hidden = _width(network, f"{path}.m.0.0.conv1")
    return Stage(_width(network, f"{path}.cv2"), lengths[-1], hidden)


def _infer_lite(network: StoredNetwork) -> LiteArchitecture:
    stages = []
    for index in range(1, 5):
        path = f"backbone.lite_effiblock_{index}"
        stages.append(
            Stage(
                channels=_width(network, f"{path}.0.conv_pw_3"),
                depth=network.count(path),
                hidden=2 * _width(network, f"{path}.0.conv_pw_2"),
            )
        )
    return LiteArchitecture(
        stem_channels=_width(network, "backbone.conv_0"),
        backbone=tuple(stages),
        neck_channels=_width(network, "neck.reduce_layer0"),
        class_count=_width(network, "detect.cls_preds.0"),
    )


def _known(table: Mapping[str, Value], network: StoredNetwork, path: str) -> Value:
    kind = network.kind(path)
    if kind not in table:
        raise CheckpointError(f"module {path} is a {kind}, expected one of {', '.join(table)}")
    return table[kind]


def _width(network: StoredNetwork, path: str) -> int:
    """Output channels of the convolution or block at ``path``."""
    for key in _WIDTH_KEYS:
        tensor = network.tensors.get(f"{path}.{key}")
        if tensor is not None and len(tensor.shape) == 4:
            return tensor.shape[0]
    raise CheckpointError(f"module {path} has no convolution that says how wide it is")
