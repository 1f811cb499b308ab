"""A graph at work: compiled, fed with images, its output turned into detections or classes."""

from detq.runtime.classifier import Classifier, classify_stream
from detq.runtime.detector import CompiledGraph, Detector
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
    "Classifier",
    "CompiledGraph",
    "Detector",
    "ExecutedConvolution",
    "Frame",
    "PostprocessOptions",
    "RuntimeOptions",
    "classify_stream",
    "constant_bytes",
    "convolution_macs",
    "detect_stream",
    "executed_convolutions",
    "postprocess",
    "precision_shares",
    "suppress",
]
