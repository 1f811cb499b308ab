"""INT8 deployment of re-parameterized object detectors on CPUs, without retraining.

::

    import detq

    result = detq.quantize("yolov6s.pt", data="coco.yaml")
    result.save("yolov6s_int8_openvino_model")
    detq.evaluate("yolov6s_int8_openvino_model", data="coco.yaml")
    detector = detq.detector("yolov6s_int8_openvino_model")
    detector.detect(image_bgr)
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from detq.errors import DetqError

if TYPE_CHECKING:  # what __getattr__ gives
    __version__: str
    from detq.api import (
        BenchResult,
        Classified,
        Classifier,
        Clip,
        Comparison,
        Cut,
        DatasetConfig,
        Detections,
        Detector,
        DetectorGraph,
        EvalResult,
        FloatPrecision,
        Frame,
        ImageBGR,
        Item,
        MaxDrop,
        Newest,
        Prediction,
        PredictionRun,
        Progress,
        QuantizationResult,
        Recipe,
        RuntimeOptions,
        Shot,
        Source,
        Tracks,
        Tuning,
        Workers,
        adapt,
        bench,
        boxes_between,
        class_color,
        classifier,
        classify,
        compare,
        core_count,
        detect_stream,
        detector,
        draw_detections,
        evaluate,
        export,
        fastest_float,
        frame_rate,
        load,
        open_source,
        predict,
        predict_many,
        quantize,
        read_frames,
        register_adapter,
        sample_picture,
        tune,
        write_image,
    )
else:

    def __getattr__(name):
        """What a user calls, imported on first use: torch and OpenVINO take seconds."""
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415

            return version("detq")
        if name not in __all__:
            raise AttributeError(f"module 'detq' has no attribute {name!r}")
        from detq import api  # noqa: PLC0415

        return getattr(api, name)


__all__ = [
    "BenchResult",
    "Classified",
    "Classifier",
    "Clip",
    "Comparison",
    "Cut",
    "DatasetConfig",
    "Detections",
    "Detector",
    "DetectorGraph",
    "DetqError",
    "EvalResult",
    "FloatPrecision",
    "Frame",
    "ImageBGR",
    "Item",
    "MaxDrop",
    "Newest",
    "Prediction",
    "PredictionRun",
    "Progress",
    "QuantizationResult",
    "Recipe",
    "RuntimeOptions",
    "Shot",
    "Source",
    "Tracks",
    "Tuning",
    "Workers",
    "adapt",
    "bench",
    "boxes_between",
    "class_color",
    "classifier",
    "classify",
    "compare",
    "core_count",
    "detect_stream",
    "detector",
    "draw_detections",
    "evaluate",
    "export",
    "fastest_float",
    "frame_rate",
    "load",
    "open_source",
    "predict",
    "predict_many",
    "quantize",
    "read_frames",
    "register_adapter",
    "sample_picture",
    "tune",
    "write_image",
]


def __dir__() -> list[str]:
    """What a shell completes: also what has not been imported yet."""
    return sorted({*globals(), *__all__})


# OpenVINO and NNCF would report every run to Google Analytics, from processes forked for it that
# print tracebacks at Ctrl-C. They do without this module where it cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
