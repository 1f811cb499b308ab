"""What the outputs of published detectors' ONNX files mean, and by what a file gives itself away.

Facts from the projects' documentation and exporters. Where several layouts fit a file, nothing is
guessed: the error lists them, and ``--layout`` chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.errors import CheckpointError
from detq.graph.surgery import CONVOLUTIONS, consumers, nodes_of_type, producer
from detq.records import Fit, SizeHW

Form = Literal["rows", "columns", "pair", "levels"]
"""``rows`` [1, N, 5 + nc], ``columns`` [1, 4 + nc, N], ``pair`` boxes and scores apart, ``levels``
one [1, 3, h, w, 5 + nc] per stride."""

STRIDES = ((8, 16, 32), (8, 16, 32, 64))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Pixels:
    """What a network wants of an image: order of colours, largest value, then (x - mean) / std.

    ``mean`` and ``std`` are of the scaled values, in the network's order of colours.
    """

    bgr: bool = False
    largest: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Layout:
    """One convention. ``per_cell`` predictions belong to each cell; ``decode`` says what is still
    to be done to the boxes; ``forms`` are the outputs that it comes in.

    ``has_objectness``: column 4 is a factor of all scores. ``corners``: boxes are x1, y1, x2, y2,
    else centre and size.
    """

    name: str
    forms: tuple[Form, ...]
    per_cell: int = 1
    decode: Literal["none", "exponential", "anchors"] = "none"
    has_objectness: bool = True
    corners: bool = False
    pixels: Pixels = Pixels()
    fit: Fit = "yolov6"
    anchors: tuple[tuple[tuple[int, int], ...], ...] = ()


_P6 = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)
_YOLOV5 = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
_YOLOV7 = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
_BGR_255 = Pixels(bgr=True, largest=255.0)
_PADDLE = Layout("ppyoloe-plus", ("pair", "rows"), has_objectness=False, corners=True)

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("yolov6", ("rows",)),
        Layout("yolov5", ("rows",), per_cell=3),
        Layout("yolov5-levels", ("levels",), per_cell=3, decode="anchors", anchors=_YOLOV5),
        Layout("yolov7-levels", ("levels",), per_cell=3, decode="anchors", anchors=_YOLOV7),
        Layout("p6-levels", ("levels",), per_cell=3, decode="anchors", anchors=_P6),
        Layout("yolov8", ("columns",), has_objectness=False),
        Layout("yolox", ("rows",), pixels=_BGR_255, fit="corner"),
        Layout("yolox-raw", ("rows",), decode="exponential", pixels=_BGR_255, fit="corner"),
        replace(_PADDLE, fit="stretch-cubic"),
        replace(
            _PADDLE,
            name="ppyoloe",
            fit="stretch-cubic",
            pixels=Pixels(mean=_IMAGENET[0], std=_IMAGENET[1]),
        ),
        Layout(
            "damoyolo",
            ("pair",),
            has_objectness=False,
            corners=True,
            pixels=Pixels(largest=255.0),
            fit="corner-black",
        ),
        Layout("boxes-scores", ("pair",), has_objectness=False, corners=True),
    )
}


@dataclass(frozen=True)
class Outputs:
    """The outputs of a graph as they are: form, number of cells' predictions and strides."""

    form: Form
    strides: tuple[int, ...]
    per_cell: int
    width: int
    """Columns per prediction; of a pair, the number of classes."""


def read_outputs(model: ov.Model, size_hw: SizeHW, where: str) -> Outputs:
    """Tell the form by shapes alone. Raises CheckpointError if no known form has them."""
    shapes = [tuple(port.get_shape()) for port in model.outputs]
    if len(shapes) == 2:
        boxes = [shape for shape in shapes if len(shape) == 3 and shape[2] == 4]
        others = [shape for shape in shapes if shape not in boxes and len(shape) == 3]
        if len(boxes) == 1 and len(others) == 1 and (fit := _fit(boxes[0][1], size_hw)):
            count = boxes[0][1]
            if count in others[0][1:]:
                width = others[0][1] if others[0][2] == count else others[0][2]
                return Outputs("pair", *fit, width)
    if len(shapes) == 1 and len(shapes[0]) == 3:
        _, first, second = shapes[0]
        # 6 columns at least, so that rows of a network with few cells are not taken for columns
        if second >= 5 and (fit := _fit(first, size_hw)):
            return Outputs("rows", *fit, second)
        if first >= 5 and (fit := _fit(second, size_hw)):
            return Outputs("columns", *fit, first)
    if all(len(shape) == 5 for shape in shapes) and len({shape[4] for shape in shapes}) == 1:
        cells = sum(shape[2] * shape[3] for shape in shapes)
        if fit := _fit(cells, size_hw):
            return Outputs("levels", fit[0], shapes[0][1], shapes[0][4])
    found = ", ".join(str(list(shape)) for shape in shapes)
    raise CheckpointError(
        f"{where}: outputs {found} at {size_hw[0]}x{size_hw[1]} are of no known layout "
        f"({', '.join(LAYOUTS)}); export it without end-to-end post-processing"
    )


def prediction_counts(size_hw: SizeHW) -> set[int]:
    """The numbers of predictions that a network of that input size may make."""
    cells = [sum(cell_count(size_hw, stride) for stride in strides) for strides in STRIDES]
    return {per_cell * count for per_cell in (1, 3) for count in cells}


def _fit(count: int, size_hw: SizeHW) -> tuple[tuple[int, ...], int] | None:
    """Strides and predictions per cell that give that many."""
    for strides in STRIDES:
        cells = sum(cell_count(size_hw, stride) for stride in strides)
        for per_cell in (1, 3):
            if count == per_cell * cells:
                return strides, per_cell
    return None


def cell_count(size_hw: SizeHW, stride: int) -> int:
    """Cells of one stride in an input."""
    return -(-size_hw[0] // stride) * -(-size_hw[1] // stride)


@dataclass(frozen=True)
class Evidence:
    """What a file shows beside the shapes of its outputs.

    ``scale_factor``: it took that input; ``objectness_is_one``: column 4 is 1 on every image.
    """

    scale_factor: bool
    objectness_is_one: bool


def recognise(
    model: ov.Model, outputs: Outputs, evidence: Evidence, wanted: str | None, where: str
) -> Layout:
    """The layout that fits, or the one that is wanted if it fits.

    Raises CheckpointError, listing the candidates, if several fit or none does.
    """
    fitting = [layout for layout in LAYOUTS.values() if _suits(layout, outputs)]
    if wanted is not None:
        if wanted not in LAYOUTS:
            raise CheckpointError(
                f"{where}: unknown layout {wanted!r}; known are {', '.join(LAYOUTS)}"
            )
        if LAYOUTS[wanted] not in fitting:
            raise CheckpointError(
                f"{where}: its outputs do not fit layout {wanted}; "
                f"{_listed(fitting) or 'none'} would fit"
            )
        return LAYOUTS[wanted]
    candidates = [
        layout for layout in fitting if layout.name in _speaking_for(model, outputs, evidence)
    ]
    if len(candidates) != 1:
        raise CheckpointError(
            f"{where}: its outputs fit several layouts and nothing in it tells which; "
            f"pass --layout with one of {_listed(candidates or fitting)}"
        )
    return candidates[0]


def _suits(layout: Layout, outputs: Outputs) -> bool:
    if outputs.form == "levels" and len(layout.anchors) != len(outputs.strides):
        return False
    if outputs.form != "pair" and outputs.width < (6 if layout.has_objectness else 5):
        return False  # no class
    return outputs.form in layout.forms and outputs.per_cell == layout.per_cell


def _speaking_for(model: ov.Model, outputs: Outputs, evidence: Evidence) -> set[str]:
    """The layouts that something in the file speaks for; all of them if nothing does."""
    if evidence.scale_factor:
        return {"ppyoloe", "ppyoloe-plus"}
    if outputs.form == "pair" and _any_name(model, "gfl_cls"):
        return {"damoyolo"}
    if outputs.form == "rows":
        if evidence.objectness_is_one or _any_name(model, "rbr_reparam", "/detect/", "detect."):
            return {"yolov6", "yolov5"}
        if _any_name(model, "obj_preds") or _has_focus(model):
            return {"yolox" if nodes_of_type(model, "Exp") else "yolox-raw", "yolov5"}
        return set(LAYOUTS) - {"ppyoloe", "ppyoloe-plus"}
    return set(LAYOUTS)


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


def built_in_pixels(model: ov.Model, pixels: Pixels) -> Pixels:
    """``pixels``, less what the graph does to its input by itself.

    Some exporters put the exchange of colours and the division by 255 into the file.
    """
    node, turned, scaled = model.get_parameters()[0], False, False
    while len(users := consumers(node)) == 1 and users[0].get_type_name() in _PREPARING:
        node = users[0]
        kind = node.get_type_name()
        constants = [each for each in _constants(node) if each.size == 1]
        if kind == "Gather":
            turned ^= [int(index) for index in _values(node, 1)] == [2, 1, 0]
        elif "Slice" in kind:
            turned ^= -1 in [int(step) for step in _values(node, 3)]
        elif constants:
            factor = float(constants[0].reshape(()))
            scaled |= kind == "Divide" and factor == 255
            scaled |= kind == "Multiply" and abs(factor * 255 - 1) < 1e-3
    return replace(pixels, bgr=pixels.bgr ^ turned, largest=255.0 if scaled else pixels.largest)


_PREPARING = frozenset({"Convert", "Divide", "Gather", "Multiply", "Slice", "StridedSlice"})


def _constants(node: ov.Node) -> list[npt.NDArray[np.float32]]:
    return [
        port.get_node().get_data()
        for port in node.input_values()
        if port.get_node().get_type_name() == "Constant"
    ]


def _values(node: ov.Node, index: int) -> Iterable[float]:
    above = producer(node, index)
    return above.get_data().reshape(-1) if above.get_type_name() == "Constant" else ()


def _listed(layouts: list[Layout]) -> str:
    return ", ".join(layout.name for layout in layouts)
