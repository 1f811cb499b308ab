"""Writes checkpoints as YOLOv6's training would, from our own networks.

Class names, attribute names and key layout are those of the file format; nothing behind them is
YOLOv6's. ``release="0.3"`` writes the layout of the older releases.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rules_by_name import identity_kernel, mean_kernel, read_kernel
from torch import nn

from detq.adapters.pickle_names import CLASSES
from detq.models import YOLOv6, YOLOv6Architecture, lite, stages
from detq.models.blocks import (
    ConvModule,
    DPBlock,
    LinearAddBlock,
    QARepVGGBlock,
    RealVGGBlock,
    RepVGGBlock,
    ScaleLayer,
    WrappedConv,
)
from detq.models.heads import Detect, ObjectnessDetect
from detq.models.yolov6 import Backbone, PyramidNeck

COMMON = "yolov6.layers.common"
_SAME_NAME = (
    *(ConvModule, RepVGGBlock, RealVGGBlock, LinearAddBlock, ScaleLayer, DPBlock),
    *(stages.RepBlock, stages.BepC3, stages.MBLABlock, stages.SPPFModule, stages.CSPSPPFModule),
    *(stages.Transpose, stages.BiFusion, lite.SEBlock, lite.DarknetBlock, lite.CSPBlock),
)
_RENAMED: dict[type[nn.Module], str] = {
    **{kind: f"{COMMON}.{kind.__name__}" for kind in _SAME_NAME},
    lite.EffiBlockS1: f"{COMMON}.Lite_EffiBlockS1",
    lite.EffiBlockS2: f"{COMMON}.Lite_EffiBlockS2",
    lite.LiteBackbone: "yolov6.models.efficientrep.Lite_EffiBackbone",
    lite.LiteNeck: "yolov6.models.reppan.Lite_EffiNeck",
    YOLOv6: "yolov6.models.yolo.Model",
    ObjectnessDetect: "yolov6.models.effidehead.Detect",
}
_WRAPPERS = {nn.ReLU: "ConvBNReLU", nn.SiLU: "ConvBNSiLU", nn.Hardswish: "ConvBNHS"}
_ACTIVATIONS = {  # what their activation is called
    RepVGGBlock: "nonlinearity",
    QARepVGGBlock: "nonlinearity",
    RealVGGBlock: "relu",
    LinearAddBlock: "relu",
}
_OLD_CONVOLUTIONS = {nn.ReLU: "SimConv", nn.SiLU: "Conv"}
_OLD_WRAPPERS = {nn.ReLU: "SimConvWrapper", nn.SiLU: "ConvWrapper"}
_BLOCK_PLACES = re.compile(r"backbone\.(stem|ERBlock_\d\.0)|.*\.conv[12]|(.*\.)?Rep_..\.block\.\d")

Edit = Callable[[dict[str, nn.Module]], None]  # changes the pickled modules, by path


@contextmanager
def original_classes() -> Iterator[dict[str, type[nn.Module]]]:
    """Empty classes under the original names, importable only inside the block."""
    packages = ("yolov6", "yolov6.layers", "yolov6.models", "yolov6.models.heads")
    modules = {name: ModuleType(name) for name in packages}
    classes = {}
    for name in CLASSES:
        if not name.startswith("yolov6."):
            continue
        module_name, _, short = name.rpartition(".")
        module = modules.setdefault(module_name, ModuleType(module_name))
        classes[name] = type(short, (nn.Module,), {"__module__": module_name})
        setattr(module, short, classes[name])
    sys.modules.update(modules)
    try:
        yield classes
    finally:
        for module_name in modules:
            del sys.modules[module_name]


def write_checkpoint(
    path: Path,
    network: nn.Module,
    architecture: Any,
    *,
    release: str = "0.4",
    deployed: bool = False,
    half: bool = True,
    names: list[str] | None = None,
    edit: Edit | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> Path:
    """Save ``network`` as the ``ema`` of a training checkpoint, in half precision unless told."""
    with original_classes() as classes:
        forger = _Forger(classes, architecture, old=release == "0.3", deployed=deployed)
        root = forger.convert("", network)
        root = root.half() if half else root.float()
        root.get_submodule("detect").use_dfl = getattr(architecture, "regression_channels", 4) == 68
        if names is not None:
            root.names = names
        if edit:
            edit(dict(root.named_modules()))
        root = wrap(root)
        torch.save({"model": None, "ema": root, "epoch": 3, "optimizer": {0: torch.ones(2)}}, path)
    return path


class _Forger:
    def __init__(
        self, classes: dict[str, type[nn.Module]], architecture: Any, *, old: bool, deployed: bool
    ) -> None:
        self.classes = classes
        self.architecture = architecture
        self.old = old
        self.deployed = deployed

    def convert(self, path: str, module: nn.Module) -> nn.Module:
        if type(module).__module__.startswith("torch."):
            copied = _copy_leaf(module)
        else:
            copied = self.classes[self.original_name(path, module)]()
            for name, parameter in module.named_parameters(recurse=False):
                copied.register_parameter(name, nn.Parameter(parameter.clone()))
        for name, child in self.children(path, module).items():
            copied.add_module(name, self.convert(f"{path}.{name}" if path else name, child))
        if self.deployed and isinstance(module, (RepVGGBlock, QARepVGGBlock)):
            copied.add_module("rbr_reparam", _fused_branches(module))
        return copied

    def children(self, path: str, module: nn.Module) -> dict[str, nn.Module]:
        activation = _ACTIVATIONS.get(type(module), "act")
        children = {
            activation if name == "act" else name: child
            for name, child in module.named_children()
            if name != "decode"
        }
        if self.old and isinstance(module, WrappedConv) and not self.is_old_wrapper(path, module):
            return dict(module.block.named_children())
        if self.old and isinstance(module, (stages.SPPF, stages.CSPSPPF)):
            return dict(next(module.children()).named_children())
        if self.deployed and isinstance(module, (RepVGGBlock, QARepVGGBlock)):
            return {name: child for name, child in children.items() if "rbr_" not in name}
        if isinstance(module, ConvModule) and self.deployed:
            return {"conv": _folded(module), "act": module.act}
        if isinstance(module, ConvModule) and self.old and self.is_block(path):
            return {**children, **_with_bias(module)}
        return children

    def is_block(self, path: str) -> bool:
        return path.endswith(".block") and bool(
            _BLOCK_PLACES.fullmatch(path.removesuffix(".block"))
        )

    def is_old_wrapper(self, path: str, module: WrappedConv) -> bool:
        return self.architecture.block.startswith("conv_") and self.is_block(f"{path}.block")

    def original_name(self, path: str, module: nn.Module) -> str:
        if isinstance(module, (Backbone, PyramidNeck, Detect)) and type(module) not in _RENAMED:
            return self.large_name(module)
        if type(module) in _RENAMED and not (self.old and isinstance(module, ConvModule)):
            return _RENAMED[type(module)]
        return f"{COMMON}.{self.common_name(path, module)}"

    def common_name(self, path: str, module: nn.Module) -> str:
        name = type(module).__name__
        match module:
            case QARepVGGBlock():
                name = f"QARepVGGBlock{'V2' * (self.architecture.block == 'qarepvggv2')}"
            case stages.BottleRep():
                name = f"BottleRep{'3' * (module.length == 3)}"
            case stages.SPPF() | stages.CSPSPPF() if not self.architecture.merge_silu:
                name = f"Sim{name}"
            case ConvModule() if path.endswith(".block"):
                name = _OLD_CONVOLUTIONS[type(module.act)]
            case WrappedConv() if self.old:
                name = self.old_name(path, module)
            case WrappedConv():
                name = _WRAPPERS.get(type(module.block.act), "ConvBN")
        return name

    def old_name(self, path: str, module: WrappedConv) -> str:
        if self.is_old_wrapper(path, module):
            return _OLD_WRAPPERS[type(module.block.act)]
        if re.fullmatch(r".*\.cv[123]", path) and self.architecture.stage == "csp":
            return "Conv_C3"
        return _OLD_CONVOLUTIONS[type(module.block.act)]

    def large_name(self, module: nn.Module) -> str:
        a = self.architecture
        if isinstance(module, Detect):
            head = "effidehead" if isinstance(a, YOLOv6Architecture) else "heads.effidehead_lite"
            return f"yolov6.models.{head}.Detect"
        csp = a.stage != "rep"
        suffix = "" if len(a.strides) == 3 else "_P6" if csp else "6"
        if isinstance(module, Backbone):
            return (
                f"yolov6.models.efficientrep.{'CSPBepBackbone' if csp else 'EfficientRep'}{suffix}"
            )
        kind = "RepBiFPANNeck" if a.neck == "bifpan" else "RepPANNeck"
        return f"yolov6.models.reppan.{'CSP' * csp}{kind}{suffix}"


def _copy_leaf(module: nn.Module) -> nn.Module:
    """A torch module without its children (containers) or with its own tensors (leaves)."""
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        return type(module)()
    copied = type(module).__new__(type(module))
    copied.__dict__.update(module.__dict__)
    copied._parameters = {
        name: None if tensor is None else nn.Parameter(tensor.clone())
        for name, tensor in module._parameters.items()
    }
    copied._buffers = dict(module._buffers)
    return copied


def _with_bias(module: ConvModule) -> dict[str, nn.Module]:
    """A convolution with a bias of 0.25, and a BatchNorm that subtracts it again."""
    conv, bn = _copy_leaf(module.conv), _copy_leaf(module.bn)
    conv.bias = nn.Parameter(torch.full_like(module.bn.bias, 0.25))
    bn.running_mean = module.bn.running_mean + 0.25
    return {"conv": conv, "bn": bn}


def _folded(module: ConvModule) -> nn.Conv2d:
    return _convolution(module.conv, read_kernel(module.conv).normalized(module.bn))


def _fused_branches(block: RepVGGBlock | QARepVGGBlock) -> nn.Conv2d:
    """The branches as one kernel; the outer BatchNorm of a QARepVGG block stays outside."""
    dense = block.rbr_dense
    kernel = read_kernel(dense.conv).normalized(dense.bn)
    if isinstance(block, RepVGGBlock):
        narrow = block.rbr_1x1
        kernel += read_kernel(narrow.conv).normalized(narrow.bn).widened()
        if block.rbr_identity is not None:
            kernel += identity_kernel(len(kernel.bias)).normalized(block.rbr_identity)
        return _convolution(dense.conv, kernel)
    kernel += read_kernel(block.rbr_1x1).widened()
    if block.has_identity:
        kernel += identity_kernel(len(kernel.bias))
    if block.rbr_avg is not None:
        kernel += mean_kernel(len(kernel.bias))
    return _convolution(dense.conv, kernel)


def _convolution(like: nn.Conv2d, kernel: Any) -> nn.Conv2d:
    conv = _copy_leaf(like)
    conv.weight = nn.Parameter(kernel.weight.float())
    conv.bias = nn.Parameter(kernel.bias.float())
    return conv
