"""By what a file gives its layout away.

A layout has to fit the shapes, and what it makes of the outputs has to look like boxes
(:mod:`detq.graph.plausibility`). Where several do, nothing is guessed: the error lists them, and
``--layout`` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import openvino as ov

from detq.errors import CheckpointError, shown
from detq.graph.layouts import LAYOUTS, STRIDES, Layout, Outputs
from detq.graph.queries import class_columns
from detq.graph.surgery import CONVOLUTIONS, nodes_of_type, producer


@dataclass(frozen=True)
class Clues:
    """What a file shows beside the shapes of its outputs.

    ``scale_factor``: it took that input; ``objectness_is_one``: column 4 is 1 on every image;
    ``activated``: all its numbers are 0 to 1, as behind a sigmoid; ``stem``: how strongly the first
    layer answers to pixels of 0..1 (:func:`detq.graph.probing.stem_response`); ``class_count``: how
    many classes the file names.
    """

    scale_factor: bool
    objectness_is_one: bool
    activated: bool
    stem: float | None
    class_count: int | None


def plausible_layouts(
    outputs: Outputs, clues: Clues, doubt: Callable[[Layout], str | None]
) -> dict[str, str | None]:
    """The layouts that fit the shapes, each with why what it makes of the outputs cannot be boxes
    (``doubt``), None if it can.
    """
    fitting = [layout for layout in LAYOUTS.values() if _suits(layout, outputs, clues)]
    return {layout.name: doubt(layout) for layout in fitting}


def recognise(
    model: ov.Model,
    outputs: Outputs,
    clues: Clues,
    wanted: str | None,
    doubts: Mapping[str, str | None],
    where: str,
) -> Layout:
    """The layout that fits, or the one that is wanted if it fits.

    ``doubts`` are of :func:`plausible_layouts`. Raises CheckpointError, listing the layouts that
    can be, if several can or none does.
    """
    if wanted is not None and wanted not in LAYOUTS:
        raise CheckpointError(
            f"{where}: unknown layout {shown(wanted)}; known are {', '.join(LAYOUTS)}"
        )
    possible = [name for name, doubt in doubts.items() if doubt is None]
    if wanted is not None:
        if wanted in possible:
            return LAYOUTS[wanted]
        reason = f" (it gives {doubts[wanted]})" if doubts.get(wanted) else ""
        raise CheckpointError(
            f"{where}: its outputs do not fit layout {wanted}{reason}; "
            f"{', '.join(possible) or 'no known one'} would fit"
        )
    if not possible:
        tried = "; ".join(f"{name}: {reason}" for name, reason in doubts.items()) or "by shape"
        raise CheckpointError(
            f"{where}: its outputs are of no known layout ({tried}); export the model without "
            "post-processing, in a layout of docs/models.md"
        )
    speaking = _speaking_for(model, outputs, clues)
    candidates = [name for name in possible if name in speaking] or possible
    if len(candidates) != 1:
        raise CheckpointError(
            f"{where}: its outputs fit several layouts and nothing in it tells which; "
            f"pass --layout with one of {', '.join(candidates)}"
        )
    return LAYOUTS[candidates[0]]


def _suits(layout: Layout, outputs: Outputs, clues: Clues) -> bool:
    """True if shapes, and the number of classes that the file names, are the layout's."""
    if outputs.form not in layout.forms or outputs.end_to_end != layout.end_to_end:
        return False
    if not _may_have_classes(layout, outputs, clues.class_count or None):
        return False
    if outputs.form == "faces":
        a_cell = len(outputs.strides) > len(STRIDES[0])  # SCRFD's largest: one prediction in each
        own = outputs.per_cell == (1 if a_cell else layout.per_cell)
        return own and outputs.has_objectness == layout.has_objectness
    if layout.decode == "anchors":
        undecoded = outputs.form == "levels" or clues.activated
        own_strides = STRIDES[1][: len(layout.anchors)]
        return undecoded and outputs.strides == own_strides and outputs.per_cell == 3
    if layout.name == "yolov8" and outputs.form == "rows" and clues.class_count is None:
        return outputs.cut  # at the end of a file no exporter writes its table in rows
    return outputs.per_cell == layout.per_cell


def _may_have_classes(layout: Layout, outputs: Outputs, named: int | None) -> bool:
    if outputs.form == "queries":
        return class_columns(layout, outputs.width, named) is not None
    if outputs.form in ("pair", "distributions", "faces"):
        return True
    classes = outputs.width - (5 if layout.has_objectness else 4)
    return classes >= 1 and named in (None, classes)


WANTS_255, WANTS_1 = 0.03, 0.05
"""A first layer that answers less strongly to pixels of 0..1 was trained on 0..255, one that
answers more strongly was not."""


def _speaking_for(model: ov.Model, outputs: Outputs, clues: Clues) -> set[str]:
    """The layouts that something in the file speaks for; all of them if nothing does."""
    spoken = {"ppyoloe", "ppyoloe-plus"} if clues.scale_factor else set(outputs.spoken_for)
    if spoken:
        return spoken
    if outputs.form == "pair" and _any_name(model, "gfl_cls"):
        return {"damoyolo"}
    if outputs.form == "rows":
        names = set(LAYOUTS) - {"ppyoloe", "ppyoloe-plus"}
        if clues.objectness_is_one or _any_name(model, "rbr_reparam", "/detect/", "detect."):
            names = {"yolov6", "yolov5"}
        elif _any_name(model, "obj_preds") or _has_focus(model):
            names = {name for name in names if not name.startswith("yolov6")}
        return names - _of_other_pixels(clues)
    if outputs.form == "distributions":
        # PaddlePaddle's exporter numbers what it saves. Only PicoDet always has four strides.
        if any("save_infer_model" in name for port in model.outputs for name in port.names):
            return {"picodet"}
        return {"nanodet"} if len(outputs.strides) == 3 else set(LAYOUTS)
    return set(LAYOUTS)


def _of_other_pixels(clues: Clues) -> set[str]:
    """The layouts whose pixels the first layer was not made for, where it tells."""
    stem = clues.stem
    if stem is None or WANTS_255 < stem < WANTS_1:
        return set()
    return {
        layout.name
        for layout in LAYOUTS.values()
        if (layout.pixels.largest == 255.0) != (stem <= WANTS_255)
    }


def _any_name(model: ov.Model, *parts: str) -> bool:
    names = [node.get_friendly_name() for node in nodes_of_type(model, *CONVOLUTIONS)]
    return any(part in name for name in names for part in parts)


def _has_focus(model: ov.Model) -> bool:
    """True if the first convolution reads every second pixel in four phases, side by side."""
    first = next(iter(nodes_of_type(model, *CONVOLUTIONS)), None)
    if first is None or producer(first).get_type_name() != "Concat":
        return False
    joined = producer(first)
    slices = [port.get_node().get_type_name() for port in joined.input_values()]
    return len(slices) == 4 and all("Slice" in kind for kind in slices)
