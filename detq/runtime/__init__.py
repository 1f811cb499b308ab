"""A detector graph at work: compiled, fed with images, its output turned into detections."""

from detq.runtime.detector import Detector
from detq.runtime.execution import (
    ExecutedConvolution,
    constant_bytes,
    convolution_macs,
    executed_convolutions,
    precision_shares,
)
from detq.runtime.options import RuntimeOptions
from detq.runtime.pipeline import Frame, detect_stream
from detq.runtime.postprocess import (
    EVALUATION,
    PREDICTION,
    PostprocessOptions,
    postprocess,
    suppress,
)

__all__ = [
    "EVALUATION",
    "PREDICTION",
    "Detector",
    "ExecutedConvolution",
    "Frame",
    "PostprocessOptions",
    "RuntimeOptions",
    "constant_bytes",
    "convolution_macs",
    "detect_stream",
    "executed_convolutions",
    "postprocess",
    "precision_shares",
    "suppress",
]
