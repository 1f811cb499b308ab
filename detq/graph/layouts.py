"""What the outputs of published detectors' files mean, and which form the outputs of a file have.

Facts from the projects' documentation and exporters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import openvino as ov

from detq.errors import CheckpointError
from detq.records import Fit, SizeHW

Form = Literal["rows", "columns", "pair", "levels", "distributions", "queries", "faces"]
"""``rows`` [1, N, 5 + nc], ``columns`` [1, 4 + nc, N], ``pair`` boxes and scores apart, ``levels``
one [1, 3, h, w, 5 + nc] per stride, ``distributions`` two per stride: scores [1, h w, nc] and
distances [1, h w, 4 bins]; ``queries`` boxes [1, N, 4] and scores [1, N, nc] of no cells
(:mod:`detq.graph.queries`); ``faces`` scores, boxes and, perhaps, landmarks per stride, of each
[1, A h w, columns]."""

STRIDES = (
    (8, 16, 32),
    (8, 16, 32, 64),
    (8, 16, 32, 64, 128),
    (4, 8, 16, 32),
    (16, 32),
    (8, 16),
)
"""Of published networks; where several give one number of cells, the first counts."""
QUERY_COUNTS = frozenset({100, 300})
"""So many queries most networks have that predict by them, so many cells hardly one."""
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
    to be done to the boxes; ``forms`` are the outputs that it comes in. ``softmax``: what is no
    score yet becomes one by softmax over the classes, else by a sigmoid of each.

    ``has_objectness``: column 4 is a factor of all scores. ``corners``: boxes are x1, y1, x2, y2,
    else centre and size. ``end_to_end``: of the file's own choice of the best, before which it was
    cut. ``background``: the last column is no class. ``coco_columns``: with so many, those trained
    on COCO have a column for each of its category ids, which leave gaps. ``note`` is what a user
    should know of whatever is read like this.
    """

    name: str
    forms: tuple[Form, ...]
    per_cell: int = 1
    decode: Literal["none", "exponential", "anchors", "distances", "shares", "sides"] = "none"
    has_objectness: bool = True
    corners: bool = False
    pixels: Pixels = Pixels()
    fit: Fit = "yolov6"
    anchors: tuple[tuple[tuple[int, int], ...], ...] = ()
    end_to_end: bool = False
    softmax: bool = False
    background: bool = False
    coco_columns: int | None = None
    note: str | None = None


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
_RGB_IMAGENET = Pixels(mean=_IMAGENET[0], std=_IMAGENET[1])
_BGR_IMAGENET = Pixels(bgr=True, mean=_IMAGENET[0][::-1], std=_IMAGENET[1][::-1])
_RGB_128 = Pixels(largest=255.0, mean=(127.5, 127.5, 127.5), std=(128.0, 128.0, 128.0))
_UNDECODED: tuple[Form, ...] = ("levels", "rows")
_PADDLE = Layout("ppyoloe-plus", ("pair", "rows"), has_objectness=False, corners=True)
_QUERIES = Layout(
    "rtdetr", ("queries",), decode="shares", has_objectness=False, fit="stretch", end_to_end=True
)
_FACES = Layout(
    "yunet",
    ("faces",),
    decode="exponential",
    pixels=_BGR_255,
    fit="corner-black",
    note="its landmarks are left out",
)

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("yolov6", ("rows",)),
        Layout("yolov5", ("rows",), per_cell=3),
        Layout("yolov5-levels", _UNDECODED, per_cell=3, decode="anchors", anchors=_YOLOV5),
        Layout("yolov7-levels", _UNDECODED, per_cell=3, decode="anchors", anchors=_YOLOV7),
        Layout("p6-levels", _UNDECODED, per_cell=3, decode="anchors", anchors=_P6),
        Layout("yolov8", ("columns", "rows"), has_objectness=False),
        Layout(
            "yolov10",
            ("columns", "rows"),
            has_objectness=False,
            corners=True,
            fit="ultralytics",
            end_to_end=True,
        ),
        Layout("yolox", ("rows",), pixels=_BGR_255, fit="corner"),
        Layout("yolox-raw", ("rows",), decode="exponential", pixels=_BGR_255, fit="corner"),
        Layout("yolox-legacy", ("rows",), pixels=_RGB_IMAGENET, fit="corner"),
        Layout(
            "yolox-legacy-raw",
            ("rows",),
            decode="exponential",
            pixels=_RGB_IMAGENET,
            fit="corner",
        ),
        Layout(
            "nanodet",
            ("distributions",),
            decode="distances",
            has_objectness=False,
            pixels=_BGR_IMAGENET,
        ),
        Layout(
            "picodet",
            ("distributions",),
            decode="distances",
            has_objectness=False,
            pixels=_RGB_IMAGENET,
            fit="stretch-cubic",
        ),
        replace(_PADDLE, fit="stretch-cubic"),
        replace(
            _PADDLE,
            name="ppyoloe",
            fit="stretch-cubic",
            pixels=_RGB_IMAGENET,
        ),
        Layout(
            "damoyolo",
            ("pair",),
            has_objectness=False,
            corners=True,
            pixels=Pixels(largest=255.0),
            fit="corner-black",
        ),
        Layout("boxes-scores", ("pair", "rows"), has_objectness=False, corners=True),
        _QUERIES,
        replace(_QUERIES, name="rtdetr-imagenet", pixels=_RGB_IMAGENET),
        replace(_QUERIES, name="rfdetr", pixels=_RGB_IMAGENET, background=True, coco_columns=91),
        replace(
            _QUERIES,
            name="detr",
            pixels=_RGB_IMAGENET,
            fit="corner",
            softmax=True,
            background=True,
            coco_columns=92,
        ),
        _FACES,
        replace(
            _FACES,
            name="scrfd",
            per_cell=2,
            decode="sides",
            has_objectness=False,
            pixels=_RGB_128,
        ),
    )
}


@dataclass(frozen=True)
class Outputs:
    """The outputs of a graph as they are: form, number of cells' predictions and strides."""

    form: Form
    strides: tuple[int, ...]
    per_cell: int
    width: int
    """Columns per prediction; where scores are apart from boxes, of these alone."""
    end_to_end: bool = False
    """The file chose the best of these by itself, and was cut before that."""
    cut: bool = False
    """They stood before a suppression, not at the end of the file."""
    spoken_for: frozenset[str] = frozenset()
    """The layouts that the names of the outputs and what chooses among them speak for."""
    activated: bool | None = None
    """What should be scores has been through a sigmoid or softmax; None if only values can tell."""
    has_objectness: bool = False
    """There is a second score, of there being anything at all, in an output of its own."""


def read_outputs(model: ov.Model, size_hw: SizeHW, where: str) -> Outputs:
    """Tell the form by shapes alone. Raises CheckpointError if no known form has them."""
    if any(port.get_partial_shape().is_dynamic for port in model.outputs):
        found = ", ".join(str(port.get_partial_shape()) for port in model.outputs)
        raise CheckpointError(
            f"{where}: how many boxes it gives depends on the image ({found}); "
            "pass the model before its suppression"
        )
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
    if faces := _faces(shapes, size_hw):
        return faces
    if distributions := _distributions(shapes, size_hw):
        return distributions
    found = ", ".join(str(list(shape)) for shape in shapes)
    raise CheckpointError(
        f"{where}: outputs {found} at {size_hw[0]}x{size_hw[1]} are of no known layout "
        f"({', '.join(LAYOUTS)}); detq reads boxes and scores of detectors, not masks, keypoints "
        "or classes: export it as one, without post-processing"
    )


def _distributions(shapes: list[tuple[int, ...]], size_hw: SizeHW) -> Outputs | None:
    """Scores and distances of each level, in whatever order, if that is what they are."""
    if len(shapes) % 2 or not all(len(shape) == 3 for shape in shapes):
        return None
    counts = [cell_count(size_hw, stride) for stride in STRIDES[1]][: len(shapes) // 2]
    widths = {shape[2] for shape in shapes}
    expected = {(1, count, width) for count in counts for width in widths}
    if len(widths) != 2 or set(shapes) != expected or len(set(counts)) < len(counts):
        return None
    strides = STRIDES[1][: len(counts)]
    # Distributions have a multiple of 4 columns; of two such widths, theirs is the 32 of 8 bins.
    classes = sorted(widths, key=lambda width: (width % 4 == 0, width == DISTANCE_COLUMNS))[0]
    return Outputs("distributions", strides, 1, classes)


def _faces(shapes: list[tuple[int, ...]], size_hw: SizeHW) -> Outputs | None:
    """One score, perhaps two, a box and perhaps five landmarks of each prediction, per level, in
    whatever order, if that is what they are; some exporters leave the first dimension out.
    """
    flat = [shape[1:] if len(shape) == 3 and shape[0] == 1 else shape for shape in shapes]
    if any(len(shape) != 2 for shape in flat):
        return None
    rows = {width: [shape[0] for shape in flat if shape[1] == width] for width in (1, 4, 10)}
    counts = rows[4]
    scores = len(rows[1]) // len(counts) if counts else 0
    if sum(map(len, rows.values())) != len(flat) or scores not in (1, 2):
        return None
    groups = [*rows[4], *rows[10], *rows[1]]
    if sorted(groups) != sorted(counts * (len(groups) // len(counts))):
        return None
    for strides, per_cell in ((STRIDES[0], 1), (STRIDES[0], 2), (STRIDES[2], 1)):
        expected = [per_cell * cell_count(size_hw, stride) for stride in strides]
        if sorted(counts) == sorted(expected) and len(set(counts)) == len(counts):
            return Outputs("faces", strides, per_cell, 1, has_objectness=scores == 2)
    return None


DISTANCE_COLUMNS = 32
"""Of NanoDet and PicoDet: four distances, each a distribution over 0 to 7 strides."""


def prediction_counts(size_hw: SizeHW) -> set[int]:
    """The numbers of predictions of cells that a network of that input size may make."""
    cells = [sum(cell_count(size_hw, stride) for stride in strides) for strides in STRIDES]
    return {per_cell * count for per_cell in (1, 3) for count in cells} - QUERY_COUNTS


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
