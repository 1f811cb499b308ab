"""Several recipes side by side: what each makes of a model, and at what price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from detq.api.holding import MaxDrop, hold_accuracy
from detq.api.quantization import (
    AGREEMENT_IMAGES,
    DEFAULT_RECIPE,
    QuantizationResult,
    calibration_overlap,
    quantize,
)
from detq.api.running import evaluate, judged_split
from detq.api.sources import (
    FLOAT,
    DataSource,
    ImageSize,
    ModelSource,
    RecipeSource,
    load_recipes,
    open_dataset,
    open_graph,
)
from detq.benchmark import Variant, bench, variants_of
from detq.config import DatasetConfig, Recipe
from detq.cores import core_count
from detq.data.calibration import readable_images
from detq.data.dataset import load_split, sample_images
from detq.errors import CalibrationError
from detq.evaluation.protocol import find_protocol
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Progress, labelled, silent
from detq.records import BenchResult, EvalResult, is_busy
from detq.runtime.machine import load_average
from detq.runtime.options import RuntimeOptions
from detq.tasks import strategy_of

LEAST_SPEEDUP = 1.2
"""Where INT8 gains less over a float of 16 bits, its accuracy is not worth giving up."""


@dataclass(frozen=True)
class Compared:
    """The float model in one precision, or what one recipe made of it.

    ``quality`` is None where the data set does not say what is right; ``speed`` is against the
    fastest float.
    """

    label: str
    graph: DetectorGraph
    speed: BenchResult
    quality: EvalResult | None


@dataclass(frozen=True)
class Comparison:
    """The float model in every precision that the machine executes, float32 first, then what each
    recipe made of it, the chosen one's last: that is ``result``.

    Scores are those on ``split`` by the protocol ``preset``; ``overlap`` is the number of
    calibration images that are also in it. ``left_out`` says of each recipe without a row why.
    ``load`` is the average number of busy processes in the minute before all this, None where the
    system does not say.
    """

    rows: tuple[Compared, ...]
    result: QuantizationResult
    split: str
    preset: str
    overlap: int
    left_out: Mapping[str, str]
    load: float | None = None

    @property
    def is_busy(self) -> bool:
        """True if other processes took so much of the machine that latencies mean little."""
        return is_busy(self.load, core_count())

    @property
    def scores(self) -> list[EvalResult]:
        """Of every row; empty where nothing could be measured."""
        return [row.quality for row in self.rows if row.quality is not None]

    @property
    def fastest_float(self) -> Compared:
        """What users of the float model have on this machine."""
        floats = [row for row in self.rows if row.graph is self.rows[0].graph]
        return min(floats, key=lambda row: row.speed.latency_ms)

    @property
    def nearly_as_fast(self) -> str | None:
        """The float of 16 bits that INT8 is hardly faster than, if there is one."""
        fastest, int8 = self.fastest_float, self.rows[-1]
        gains_little = fastest is not self.rows[0] and int8.speed.speedup < LEAST_SPEEDUP
        return fastest.speed.float_precision if gains_little else None

    def measured(self) -> dict[str, Any] | None:
        """What an exported directory keeps of this, as plain values; None without scores."""
        if not self.scores:
            return None
        metrics = strategy_of(self.result.graph.spec).WORDS.metrics
        return {
            "split": self.split,
            "preset": self.preset,
            "calibration_images_in_split": self.overlap,
            "load": self.load and round(self.load, 2),
            "cores": core_count(),
            "nearly_as_fast": self.nearly_as_fast,
            "models": {
                row.label: {
                    **{key: quality.scores[key] for _, key in metrics},
                    "size_mb": round(quality.size_mb, 3),
                    "latency_ms": round(row.speed.latency_ms, 3),
                    "speedup": round(row.speed.speedup, 3),
                    "of_f32": row.speed.of_f32 and round(row.speed.of_f32, 3),
                }
                for row, quality in zip(self.rows, self.scores, strict=True)
            },
        }

    def save(self, directory: str | Path) -> None:
        """Write the chosen recipe's exported directory, with what was measured."""
        self.result.save(directory, measured=self.measured(), scores=self.scores)


def compare(
    model: ModelSource,
    recipes: Sequence[RecipeSource] = (DEFAULT_RECIPE,),
    *,
    data: DataSource,
    split: str | None = None,
    preset: str | None = None,
    imgsz: ImageSize | None = None,
    calibration_images: int | None = None,
    calibration_split: str = "train",
    max_drop: MaxDrop | None = None,
    rounds: int = 20,
    device: str = "CPU",
    progress: Progress | None = None,
) -> Comparison:
    """Quantize a float model by every recipe, and measure accuracy, latency and size of them all.

    The last recipe is the chosen one: ``max_drop`` holds for it, and the others are left out if
    what they make is broken. Scores are those on ``split``, by default ``val`` if the data set has
    it; latencies are medians of ``rounds`` inferences in turns, speed-ups against the fastest
    float. Both are measured on ``device``; what quantizing tries, it tries on the CPU.
    Raises a DetqError for bad input, CalibrationError if the chosen recipe's model disagrees
    with the float model, AccuracyError.
    """
    chosen = load_recipes(recipes)
    load = load_average()  # before this process adds to it
    report, dataset, graph = progress or silent, open_dataset(data), open_graph(model, imgsz)
    preset = find_protocol(preset, graph.spec).name
    measurable, judged = judged_split(graph, dataset, split) is not None, split or "val"
    if measurable:
        strategy_of(graph.spec).check_classes(graph.spec, dataset, judged)
    # All is quantized before anything is measured: what can go wrong goes wrong first.
    results, left_out = _quantized(
        graph,
        chosen,
        dataset,
        images=calibration_images,
        split=calibration_split,
        report=report,
    )
    last = chosen[-1].name
    if max_drop is not None:
        results[last] = hold_accuracy(
            results[last],
            max_drop,
            data=dataset,
            split=judged,
            preset=preset,
            progress=labelled(report, last if len(chosen) > 1 else ""),
        )
    options = RuntimeOptions(device=device)
    variants = {FLOAT[each.float_precision]: each for each in variants_of(graph, options)}
    variants |= {
        name: each
        for name, result in results.items()
        for each in variants_of(result.graph, options)
    }
    scores: Mapping[str, EvalResult] = {}
    overlap = 0
    if measurable:
        scores = _scores(variants, dataset, judged, preset, report)
        overlap = calibration_overlap(results[last], dataset, judged)
        results[last] = _with_examples(results[last], dataset, judged)
    timing = partial(report, "measuring latency")
    speeds = bench(list(variants.values()), rounds=rounds, progress=timing)
    rows = tuple(
        Compared(label, variants[label].graph, speed, scores.get(label))
        for label, speed in zip(variants, speeds, strict=True)
    )
    return Comparison(rows, results[last], judged, preset, overlap, left_out, load)


def _with_examples(
    result: QuantizationResult, data: DatasetConfig, split: str
) -> QuantizationResult:
    """To be reported on some of the images that scores are of, with the objects that are in them;
    on its own if all of these are damaged.
    """
    strategy = strategy_of(result.graph.spec)
    images = load_split(data, split, with_annotations=strategy.FINDS_BOXES)
    some = sample_images(images, AGREEMENT_IMAGES, seed=0)
    try:
        sound = readable_images(some, strategy.preprocess(result.graph.spec)).paths
    except CalibrationError:
        return result
    return replace(result, examples=images.only(sound))


def _quantized(
    graph: DetectorGraph,
    recipes: Sequence[Recipe],
    data: DatasetConfig,
    *,
    images: int | None,
    split: str,
    report: Progress,
) -> tuple[dict[str, QuantizationResult], dict[str, str]]:
    """What each recipe made, by its name, and why what another one made is broken."""
    results: dict[str, QuantizationResult] = {}
    left_out: dict[str, str] = {}
    for recipe in recipes:
        try:
            results[recipe.name] = quantize(
                graph,
                data=data,
                recipe=recipe,
                calibration_images=images,
                split=split,
                progress=labelled(report, recipe.name if len(recipes) > 1 else ""),
            )
        except CalibrationError as error:
            if recipe is recipes[-1]:
                raise
            left_out[recipe.name] = str(error)
    return results, left_out


def _scores(
    variants: Mapping[str, Variant],
    data: DatasetConfig,
    split: str,
    preset: str,
    report: Progress,
) -> dict[str, EvalResult]:
    """Of each variant, under its label."""
    found = {}
    for label, each in variants.items():
        result = evaluate(
            each.graph,
            data=data,
            split=split,
            preset=preset,
            options=each.options,
            progress=labelled(report, label),
        )
        found[label] = replace(result, model=label)
    return found
