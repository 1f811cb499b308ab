"""What is said before a figure is measured that would mean nothing.

A network that is read in the wrong layout, or is given the wrong pixels, runs, calibrates and
agrees with itself. Only its detections tell, beside the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detq.config import DatasetConfig
from detq.data.dataset import Split, load_split
from detq.evaluation.evaluator import evaluation_detector, run_detector
from detq.evaluation.sight import IMAGES, Sight, look
from detq.graph.detector_graph import DetectorGraph
from detq.graph.layouts import LAYOUTS, Pixels
from detq.graph.preparation import Preparation
from detq.graph.probing import stem_response
from detq.runtime.postprocess import EVALUATION
from detq.tasks.strategy import Reader

LEAST_OBJECTS = 5
BLIND = 0.05
"""A detector that finds a smaller share of the labelled objects does not see them."""
CLEARLY = 0.2
"""Boxes of whatever class on this share of them: then it is the classes."""
CLEARLY_BETTER, LEAST_BETTER = 1.05, 0.01
"""Another layout is right if its overlaps exceed the chosen one's by 5% and 0.01 an object."""
_IMAGENET = LAYOUTS["picodet"].pixels
_OTHER_PIXELS = {
    "BGR": Pixels(bgr=True),
    "0 to 255": Pixels(largest=255.0),
    "BGR of 0 to 255": Pixels(bgr=True, largest=255.0),
    "ImageNet's mean and deviation": _IMAGENET,
    "-1 to 1": Pixels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
}
USUAL_STEM = (0.01, 200.0)
"""Trained networks at hand: 0.25 to 21; with pixels 255 times too large or small, beyond this."""


def doubt(
    graph: DetectorGraph,
    data: DatasetConfig,
    split: str,
    *,
    model: Path | None,
    read: Reader,
) -> str | None:
    """Why figures of a detector on a split would mean nothing, in one line; None if all is well.

    It finds next to nothing of what the labels hold on the first images; without labels, nothing at
    all. Or ``model``, its file, can be read in another layout whose boxes fit the labels better.
    """
    labelled = load_split(data, split)
    if labelled.annotations is None:
        return blind(graph, labelled.paths)
    sight = look(evaluation_detector(graph), labelled)
    if sight is None or sight.objects < LEAST_OBJECTS:
        return None
    what = (
        f"{graph.spec.name}: finds {sight.found} of {sight.objects} labelled objects in "
        f"{sight.images} images of split {split}"
    )
    better = _better_layout(graph, model, labelled, sight, read)
    if better is not None:
        return f"{what}, as layout {better} they fit better: pass --layout {better}"
    pixels = _better_pixels(graph, model, labelled, sight)
    if pixels is not None:
        return (
            f"{what}; they fit better if it is given {pixels}: export it again with that inside, "
            "or in a layout that has it (docs/models.md)"
        )
    return None if sight.found >= BLIND * sight.objects else f"{what}{_reason(graph, sight)}"


def _reason(graph: DetectorGraph, sight: Sight) -> str:
    """Why a detector may not see the labelled objects."""
    if sight.placed < CLEARLY * sight.objects:
        return f": {_causes(graph)}; no recipe mends that"
    return (
        f", but {sight.placed} if classes do not count: its classes are in another order, or "
        "called otherwise, than `names` of the data set says"
    )


def blind(graph: DetectorGraph, paths: Sequence[Path]) -> str | None:
    """Why a detector that sees nothing in the first of these images may be read wrongly, in one
    line; None if it sees something.
    """
    seen = paths[:IMAGES]
    run = run_detector(evaluation_detector(graph), seen)
    if not run.detections or any(map(len, run.detections)):
        return None
    least = 100 * EVALUATION.confidence
    return f"{graph.spec.name}: no score of {least:.0f}% in {len(seen)} images: {_causes(graph)}"


def _causes(graph: DetectorGraph) -> str:
    stem = stem_response(graph.model, Preparation())
    if stem is not None and not USUAL_STEM[0] <= stem <= USUAL_STEM[1]:
        wanted = "0 to 255" if stem < USUAL_STEM[0] else "0 to 1"
        return (
            f"its first layer answers with {stem:.2g}, as one does that was trained on pixels of "
            f"{wanted}; export it with its normalization inside, or pass the --layout that has it"
        )
    return (
        "it is not trained, or on other objects, or its layout, the order of colours or the scale "
        "of its pixels are not what was assumed (docs/models.md; --layout says them)"
    )


def _better_layout(
    graph: DetectorGraph, model: Path | None, labelled: Split, sight: Sight, read: Reader
) -> str | None:
    """The layout that the file also has boxes in, and in which they fit the labels best, if that is
    another one.
    """
    if model is None or model.suffix.lower() not in (".onnx", ".xml"):
        return None
    from detq.graph.foreign import possible_layouts  # noqa: PLC0415 - so is onnx

    best, most = None, _threshold(sight)
    others = possible_layouts(model, graph.spec.size_hw) if graph.spec.family in LAYOUTS else ()
    for layout in others:
        if layout != graph.spec.family:
            other = read(model, graph.spec.size_hw, layout)
            seen = look(evaluation_detector(other), labelled)
            if seen is not None and seen.overlap > most:
                best, most = layout, seen.overlap
    return best


def _better_pixels(
    graph: DetectorGraph, model: Path | None, labelled: Split, sight: Sight
) -> str | None:
    """What pixels a graph of another program wants, if not RGB in 0..1 as its layout says."""
    layout = LAYOUTS.get(graph.spec.family)
    if model is None or model.suffix.lower() not in (".onnx", ".xml"):
        return None
    if layout is None or layout.pixels != Pixels():
        return None
    from detq.graph.foreign import take_rgb  # noqa: PLC0415 - so is onnx

    best, most = None, _threshold(sight)
    for said, pixels in _OTHER_PIXELS.items():
        other = graph.model.clone()
        take_rgb(other, pixels)
        seen = look(evaluation_detector(DetectorGraph(other, graph.spec)), labelled)
        if seen is not None and seen.overlap > most:
            best, most = said, seen.overlap
    return best


def _threshold(sight: Sight) -> float:
    """The overlap from which another way to read a file is the right one."""
    return CLEARLY_BETTER * sight.overlap + LEAST_BETTER * sight.objects
