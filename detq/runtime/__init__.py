"""A detector graph at work: compiled, fed with images, its output turned into detections."""

from detq.runtime.detector import Detector, FloatPrecision
from detq.runtime.execution import (
    ExecutedConvolution,
    constant_bytes,
    convolution_macs,
    executed_convolutions,
    precision_shares,
)
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
    "FloatPrecision",
    "PostprocessOptions",
    "constant_bytes",
    "convolution_macs",
    "executed_convolutions",
    "postprocess",
    "precision_shares",
    "suppress",
]
