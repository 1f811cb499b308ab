"""Every name that a checkpoint may refer to; the reader refuses all others.

Class names of YOLOv6 releases 0.1 to 0.4, of Ultralytics' detectors, of the torch modules inside
them, and of what stands beside the network in the file (optimizer state, settings, results).
"""

from __future__ import annotations

from collections.abc import Mapping

# torch storage class -> numpy dtype of its numbers
STORAGE_DTYPES: Mapping[str, str] = {
    "torch.HalfStorage": "<f2",
    "torch.FloatStorage": "<f4",
    "torch.LongStorage": "<i8",
    "torch.BoolStorage": "|b1",
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
        "torch.Size",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
    }
)

REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
ORDERED_DICT = "collections.OrderedDict"

_CLASSES_BY_MODULE = {
    "torch.nn.modules.conv": "Conv2d ConvTranspose2d",
    "torch.nn.modules.batchnorm": "BatchNorm2d",
    "torch.nn.modules.activation": (
        "ReLU SiLU Hardswish Hardsigmoid LeakyReLU ReLU6 GELU Mish MultiheadAttention"
    ),
    "torch.nn.modules.pooling": "MaxPool2d AvgPool2d AdaptiveAvgPool2d",
    "torch.nn.modules.padding": "ZeroPad2d",
    "torch.nn.modules.linear": "Identity Linear NonDynamicallyQuantizableLinear",
    "torch.nn.modules.normalization": "LayerNorm",
    "torch.nn.modules.sparse": "Embedding",
    "torch.nn.modules.dropout": "Dropout",
    "torch.nn.modules.upsampling": "Upsample",
    "torch.nn.modules.container": "Sequential ModuleList",
    "torch.nn.parallel.distributed": "DistributedDataParallel",
    "torch.nn.parallel.data_parallel": "DataParallel",
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
    "ultralytics.nn.tasks": "DetectionModel RTDETRDetectionModel",
    "ultralytics.nn.modules.conv": (
        "Conv Conv2 LightConv DWConv ConvTranspose Focus GhostConv RepConv Concat"
    ),
    "ultralytics.nn.modules.block": (
        "DFL HGStem HGBlock SPP SPPF C1 C2 C2f C3 C3x RepC3 C3TR C3Ghost GhostBottleneck "
        "Bottleneck BottleneckCSP ResNetBlock ResNetLayer RepBottleneck RepCSP RepNCSPELAN4 ELAN1 "
        "AConv ADown SPPELAN CBLinear CBFuse C3f C3k2 C3k RepVGGDW CIB C2fCIB Attention PSABlock "
        "PSA C2PSA C2fPSA SCDown AAttn ABlock A2C2f Silence"
    ),
    "ultralytics.nn.modules.head": "Detect v10Detect RTDETRDecoder",
    "ultralytics.nn.modules.transformer": (
        "TransformerEncoderLayer AIFI TransformerLayer TransformerBlock MLPBlock MLP LayerNorm2d "
        "MSDeformAttn DeformableTransformerDecoderLayer DeformableTransformerDecoder"
    ),
    # before 8.0.90
    "ultralytics.nn.modules": (
        "Conv DWConv ConvTranspose Focus GhostConv Concat DFL SPP SPPF C1 C2 C2f C3 C3x C3TR "
        "C3Ghost GhostBottleneck Bottleneck BottleneckCSP TransformerLayer TransformerBlock Detect"
    ),
}

# Classes that a call without arguments makes, and that then get attributes.
NAMESPACES = frozenset(
    {
        "ultralytics.utils.IterableSimpleNamespace",
        "ultralytics.yolo.utils.IterableSimpleNamespace",
    }
)

CLASSES = frozenset(
    f"{module}.{name}" for module, names in _CLASSES_BY_MODULE.items() for name in names.split()
)

ALLOWED = (
    CLASSES
    | NAMESPACES
    | IGNORED_CALLS
    | STORAGE_DTYPES.keys()
    | {REBUILD_TENSOR, REBUILD_PARAMETER, ORDERED_DICT}
)
