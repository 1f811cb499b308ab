"""What a Python user calls. The command line is a thin layer over these functions."""

from typing import TYPE_CHECKING

from detq.api.own_adapters import register_adapter
from detq.api.predicting import PredictionRun, Workers, predict_many
from detq.api.running import (
    bench,
    classifier,
    classify,
    default_preprocess,
    detector,
    doubt,
    evaluate,
    fastest_float,
    judged_split,
    predict,
    sample_picture,
    tune,
    tuned_options,
)
from detq.api.sources import (
    EMBEDDED,
    HANDWRITING,
    adapt,
    builtin_recipes,
    convert,
    load,
    load_dataset,
    load_recipe,
    load_recipes,
)
from detq.config import DatasetConfig, Recipe
from detq.cores import core_count
from detq.data.clips import Clip, open_source
from detq.data.frames import Cut, Item, read_frames
from detq.data.images import ImageBGR, write_image
from detq.data.live import Source
from detq.data.newest import Newest, Shot
from detq.data.video import frame_rate
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Progress
from detq.records import BenchResult, Classified, Detections, EvalResult, Prediction
from detq.report.draw import class_color, draw_detections
from detq.runtime.classifier import Classifier
from detq.runtime.detector import Detector
from detq.runtime.devices import device_named
from detq.runtime.options import FloatPrecision, RuntimeOptions
from detq.runtime.pipeline import Frame, detect_stream
from detq.scale.tracking import Tracks
from detq.scale.tracking import between as boxes_between
from detq.tuning import Tuning

if TYPE_CHECKING:  # what __getattr__ gives
    from detq.api.comparison import Compared, Comparison, compare
    from detq.api.exporting import export
    from detq.api.holding import MaxDrop, hold_accuracy
    from detq.api.judging import LEAST_AGREEMENT
    from detq.api.quantization import (
        DEFAULT_RECIPE,
        QuantizationResult,
        calibration_overlap,
        quantize,
    )
else:

    def __getattr__(name):
        """What quantizes, imported on first use: without it a model runs a quarter sooner."""
        if name not in __all__:
            raise AttributeError(f"module 'detq.api' has no attribute {name!r}")
        from detq.extras import EXTRAS, require  # noqa: PLC0415

        require(f"detq.{name}", *EXTRAS["quantize"])
        from detq.api import comparison, exporting, holding, judging, quantization  # noqa: PLC0415

        modules = (comparison, exporting, holding, judging, quantization)
        return next(getattr(module, name) for module in modules if hasattr(module, name))


__all__ = [
    "DEFAULT_RECIPE",
    "EMBEDDED",
    "HANDWRITING",
    "LEAST_AGREEMENT",
    "BenchResult",
    "Classified",
    "Classifier",
    "Clip",
    "Compared",
    "Comparison",
    "Cut",
    "DatasetConfig",
    "Detections",
    "Detector",
    "DetectorGraph",
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
    "builtin_recipes",
    "calibration_overlap",
    "class_color",
    "classifier",
    "classify",
    "compare",
    "convert",
    "core_count",
    "default_preprocess",
    "detect_stream",
    "detector",
    "device_named",
    "doubt",
    "draw_detections",
    "evaluate",
    "export",
    "fastest_float",
    "frame_rate",
    "hold_accuracy",
    "judged_split",
    "load",
    "load_dataset",
    "load_recipe",
    "load_recipes",
    "open_source",
    "predict",
    "predict_many",
    "quantize",
    "read_frames",
    "register_adapter",
    "sample_picture",
    "tune",
    "tuned_options",
    "write_image",
]
