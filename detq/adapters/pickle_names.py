"""Every name that a YOLOv6 checkpoint may refer to; the reader refuses all others.

Class names of releases 0.1 to 0.4, of the torch modules inside them, and of what stands beside the
network in the file (optimizer state, results).
"""

from __future__ import annotations

from collections.abc import Mapping

# torch storage class -> numpy dtype of its numbers
STORAGE_DTYPES: Mapping[str, str] = {
    "torch.HalfStorage": "<f2",
    "torch.FloatStorage": "<f4",
    "torch.LongStorage": "<i8",
}

# Functions whose result is of no interest; calling one yields an object without attributes.
IGNORED_CALLS = frozenset(
    {
        "__builtin__.set",
        "builtins.set",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "_codecs.encode",
    }
)

REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
ORDERED_DICT = "collections.OrderedDict"

_CLASSES_BY_MODULE = {
    "torch.nn.modules.conv": "Conv2d ConvTranspose2d",
    "torch.nn.modules.batchnorm": "BatchNorm2d",
    "torch.nn.modules.activation": "ReLU SiLU Hardswish Hardsigmoid",
    "torch.nn.modules.pooling": "MaxPool2d AvgPool2d AdaptiveAvgPool2d",
    "torch.nn.modules.linear": "Identity",
    "torch.nn.modules.upsampling": "Upsample",
    "torch.nn.modules.container": "Sequential ModuleList",
    "yolov6.models.yolo": "Model",
    "yolov6.models.yolo_lite": "Model",
    "yolov6.models.efficientrep": (
        "EfficientRep EfficientRep6 CSPBepBackbone CSPBepBackbone_P6 Lite_EffiBackbone"
    ),
    "yolov6.models.reppan": (
        "RepPANNeck RepBiFPANNeck RepPANNeck6 RepBiFPANNeck6 CSPRepPANNeck CSPRepBiFPANNeck "
        "CSPRepPANNeck_P6 CSPRepBiFPANNeck_P6 Lite_EffiNeck"
    ),
    "yolov6.models.effidehead": "Detect",
    "yolov6.models.heads.effidehead_fuseab": "Detect",
    "yolov6.models.heads.effidehead_distill_ns": "Detect",
    "yolov6.models.heads.effidehead_lite": "Detect",
    "yolov6.layers.common": (
        "ConvModule ConvBNReLU ConvBNSiLU ConvBN ConvBNHS SPPFModule SimSPPF SPPF CSPSPPFModule "
        "SimCSPSPPF CSPSPPF Transpose RepVGGBlock QARepVGGBlock QARepVGGBlockV2 RealVGGBlock "
        "ScaleLayer LinearAddBlock RepBlock BottleRep BottleRep3 BepC3 MBLABlock BiFusion SEBlock "
        "Lite_EffiBlockS1 Lite_EffiBlockS2 DPBlock DarknetBlock CSPBlock "
        # releases 0.1 to 0.3
        "SimConv Conv SimConvWrapper ConvWrapper Conv_C3"
    ),
}

CLASSES = frozenset(
    f"{module}.{name}" for module, names in _CLASSES_BY_MODULE.items() for name in names.split()
)

ALLOWED = (
    CLASSES
    | IGNORED_CALLS
    | STORAGE_DTYPES.keys()
    | {REBUILD_TENSOR, REBUILD_PARAMETER, ORDERED_DICT}
)
