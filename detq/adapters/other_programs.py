"""Checkpoints of programs that detq does not read: what they are, and what makes them readable.

Told by the first name that their pickle refers to, or by the keys of their state dict. Facts about
the programs' own exporters, from their documentation.
"""

from __future__ import annotations

from collections.abc import Mapping

from detq.adapters.unpickle import StoredTensor

_YOLOV5_YOLOV7 = (
    "a checkpoint of YOLOv5's or YOLOv7's own repository; there, run `python export.py --weights "
    "FILE --include onnx` (YOLOv5) or `python export.py --weights FILE --grid` (YOLOv7), and pass "
    "the .onnx"
)
_NAMES = {
    "models.yolo.": _YOLOV5_YOLOV7,
    "models.common.": _YOLOV5_YOLOV7,
    "models.experimental.": _YOLOV5_YOLOV7,
    "utils.": _YOLOV5_YOLOV7,
    "yolox.": "a checkpoint of YOLOX; export it with its tools/export_onnx.py and pass the .onnx",
    "mmengine.": "a checkpoint of MMYOLO's kind; export it with MMDeploy and pass the .onnx",
    "mmdet.": "a checkpoint of MMDetection; export it with MMDeploy and pass the .onnx",
    "mmcv.": "a checkpoint of MMDetection; export it with MMDeploy and pass the .onnx",
    "super_gradients.": (
        "a checkpoint of SuperGradients; export it there with model.export() and pass the .onnx"
    ),
    "pytorch_lightning.": "a checkpoint of PyTorch Lightning; export its network with "
    "torch.onnx.export and pass the .onnx",
    "argparse.Namespace": "a checkpoint of DETR's kind; export its network to ONNX where it was "
    "trained, without post-processing, and pass the .onnx",
    "torch.distributed.": (
        "a network inside DistributedDataParallel with all that training on several devices needs; "
        "there, save its `.module`: torch.save({'model': model.module}, FILE)"
    ),
    "torch.jit.": "a TorchScript; export its network to ONNX where it was trained",
    "torchvision.": "a network of torchvision; export it with torch.onnx.export and pass the .onnx",
}
_ULTRALYTICS_TASKS = {
    "SegmentationModel": "segmentation",
    "PoseModel": "pose",
    "OBBModel": "oriented boxes",
    "ClassificationModel": "classification",
    "WorldModel": "open vocabulary",
    "YOLOEModel": "open vocabulary",
}
_STATES = (
    (
        ("backbone.backbone.stem.", "backbone.backbone.dark2."),
        "the weights of YOLOX, which do not say how they connect; export them with its "
        "tools/export_onnx.py and pass the .onnx",
    ),
    (
        ("model.0.", "model.1.", "model.24."),
        "the weights of a YOLO network alone, which do not say how they connect; pass the file "
        "that the training wrote, or export the network to ONNX there",
    ),
    (
        ("backbone.block_list.",),
        "the weights of DAMO-YOLO, which do not say how they connect; export them with its "
        "tools/converter.py and pass the .onnx",
    ),
    (
        ("backbone.stem.", "backbone.ERBlock_2.", "neck.", "detect."),
        "the weights of YOLOv6 alone, which do not say how they connect; pass the checkpoint that "
        "its training wrote, such as best_ckpt.pt",
    ),
)
_STATE_KEYS = ("state_dict", "model", "ema", "model_state_dict")


def explain_name(name: str) -> str | None:
    """What a file is whose pickle refers to ``name``, and what to do; None if that is not known."""
    if name.startswith("ultralytics.nn.tasks."):
        task = _ULTRALYTICS_TASKS.get(name.rpartition(".")[2])
        if task is not None:
            return f"a network of Ultralytics for {task}; detq reads its detectors"
    return next((text for start, text in _NAMES.items() if name.startswith(start)), None)


def explain_state(root: Mapping[object, object]) -> str | None:
    """What a dict of tensors is, bare or under one of the usual keys; None if it holds none."""
    meta = root.get("meta")
    if isinstance(meta, Mapping) and any(str(key).startswith("mm") for key in meta):
        return (
            "holds tensors only (a state dict), the weights of an MMDetection model; export it "
            "with MMDeploy and pass the .onnx"
        )
    for candidate in (root, *(root.get(key) for key in _STATE_KEYS)):
        if not isinstance(candidate, Mapping) or not candidate:
            continue
        names = [key.removeprefix("module.") for key in candidate if isinstance(key, str)]
        if not all(isinstance(value, StoredTensor) for value in candidate.values()):
            continue
        for starts, text in _STATES:
            if any(name.startswith(starts) for name in names):
                return f"holds tensors only (a state dict), {text}"
        return (
            "holds tensors only (a state dict), which do not say how they connect; pass the "
            "checkpoint that YOLOv6's training wrote, such as best_ckpt.pt, or export the network "
            "to ONNX where it was trained"
        )
    return None
