"""Every layout: a graph built in it, against ONNX Runtime and numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_detectors import (
    ANCHORS,
    CLASSES,
    PEAKED,
    SIZE_HW,
    STRIDES,
    Array,
    Builder,
    anchored,
    boxes_and_scores,
    contract,
    decoded,
    decoded_columns,
    dense,
    exponential,
    grid,
    levels,
    network,
    raw_maps,
    rows,
    run,
    save,
    selected,
    sigmoid,
    table_of,
)

from detq.errors import CheckpointError
from detq.graph.foreign import from_onnx
from detq.graph.layouts import LAYOUTS
from detq.quant.passes.place_quantizers import decode_nodes

COUNT = len(grid(SIZE_HW)[0])
IMAGE = np.random.default_rng(1).random((1, 3, *SIZE_HW), np.float32)


@dataclass(frozen=True)
class Case:
    """A file: what is behind the network, and what detq has to make of RGB in 0..1."""

    tail: Callable[[Builder, Sequence[str]], Sequence[str]]
    expected: Callable[[Sequence[Array]], Array]
    recognised: str | None
    asked: str | None = None
    pixels: Callable[[Array], Array] = lambda rgb: rgb
    fit: str = "yolov6"
    columns: int = 5 + CLASSES
    head: str = "detect"
    focus: bool = False
    inputs: dict[str, list[int]] | None = None

    @property
    def family(self) -> str:
        return self.asked or str(self.recognised)


def _bgr_255(rgb: Array) -> Array:
    return rgb[:, ::-1] * np.float32(255)


def _rgb_255(rgb: Array) -> Array:
    return rgb * np.float32(255)


def _imagenet(rgb: Array) -> Array:
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    shape = (1, 3, 1, 1)
    return ((rgb - np.reshape(mean, shape)) / np.reshape(std, shape)).astype(np.float32)


def _anchor_free(objectness: bool) -> Callable[[Sequence[Array]], Array]:
    def expected(maps: Sequence[Array]) -> Array:
        table = rows(maps)
        sure = sigmoid(table[:, 4:5]) if objectness else np.float32(1)
        return contract(exponential(table), sigmoid(table[:, 5:]) * sure)

    return expected


def _anchor_based(version: str) -> Callable[[Sequence[Array]], Array]:
    def expected(maps: Sequence[Array]) -> Array:
        table = sigmoid(rows(maps, 3))
        return contract(anchored(table, ANCHORS[version]), table[:, 5:] * table[:, 4:5])

    return expected


def _yolov5_rows(build: Builder, raw: Sequence[str]) -> list[str]:
    """Anchors decoded in the graph, level by level, in five dimensions."""
    tables = []
    for value, stride, anchors in zip(raw, STRIDES, ANCHORS["yolov5"], strict=True):
        height, width = build.size_hw[0] // stride, build.size_hw[1] // stride
        parted = build.reshape(value, [1, 3, 5 + CLASSES, height, width])
        ready = build.add("Sigmoid", [build.transpose(parted, [0, 1, 3, 4, 2])])
        centre, size, rest = build.split(ready, [2, 2, 1 + CLASSES], 4)
        cells = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)[None, None]
        doubled = build.add("Mul", [centre, build.constant(2)])
        moved = build.add("Add", [doubled, build.constant(cells - 0.5)])
        centre = build.add("Mul", [moved, build.constant(stride)])
        squared = build.add("Pow", [build.add("Mul", [size, build.constant(2)]), build.constant(2)])
        size = build.add("Mul", [squared, build.constant(np.reshape(anchors, (1, 3, 1, 1, 2)))])
        joined = build.add("Concat", [centre, size, rest], axis=4)
        tables.append(build.reshape(joined, [1, -1, 5 + CLASSES]))
    return [build.add("Concat", tables, axis=1)]


def _paddle(build: Builder, raw: Sequence[str]) -> list[str]:
    boxes, scores = boxes_and_scores(build, raw)
    y, x = build.split("scale_factor", [1, 1], 1)
    factor = build.reshape(build.add("Concat", [x, y, x, y], axis=1), [-1, 1, 4])
    return [build.add("Div", [boxes, factor]), scores]


def _paddle_rows(build: Builder, raw: Sequence[str]) -> list[str]:
    boxes, scores = _paddle(build, raw)
    return [build.add("Concat", [boxes, build.transpose(scores, [0, 2, 1])], axis=2)]


def _damo(build: Builder, raw: Sequence[str]) -> list[str]:
    boxes, scores = boxes_and_scores(build, raw)
    return [build.transpose(scores, [0, 2, 1]), boxes]


def _plain(**options: Any) -> Callable[[Builder, Sequence[str]], list[str]]:
    return lambda build, raw: [dense(build, raw, **options)]


def _onnxruntime_end(build: Builder, raw: Sequence[str]) -> list[str]:
    """Suppression by ONNX's own operation: best class alone, boxes shifted apart by class."""
    table = dense(build, raw, objectness=False)
    boxes, sure, cls = build.split(table, [4, 1, CLASSES], 2)
    scores = build.add("Mul", [cls, sure])
    to_corners = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]])
    boxes = build.add("MatMul", [boxes, build.constant(to_corners)])
    best = build.add("ReduceMax", [scores], axes=[2], keepdims=1)
    which = build.add("Cast", [build.add("ArgMax", [scores], axis=2, keepdims=1)], to=1)
    apart = build.add("Add", [boxes, build.add("Mul", [which, build.constant(640)])])
    limits = [build.constant([100], np.int64), build.constant([0.45]), build.constant([0.25])]
    return [build.add("NonMaxSuppression", [apart, build.transpose(best, [0, 2, 1]), *limits])]


def _tensorrt_end(build: Builder, raw: Sequence[str]) -> list[str]:
    boxes, sure, cls = build.split(dense(build, raw, objectness=False), [4, 1, CLASSES], 2)
    scores = build.add("Mul", [cls, sure])
    options = {"domain": "TRT", "box_coding": 1, "max_output_boxes": 100}
    return list(build.add("EfficientNMS_TRT", [boxes, scores], count=4, **options))


def _tensorrt7_end(build: Builder, raw: Sequence[str]) -> list[str]:
    boxes, sure, cls = build.split(dense(build, raw, objectness=False), [4, 1, CLASSES], 2)
    flat = build.reshape(boxes, [1, -1, 1, 4])
    scores = build.add("Mul", [cls, sure])
    return list(build.add("BatchedNMSDynamic_TRT", [flat, scores], count=4, domain="TRT"))


def _apart_end(build: Builder, raw: Sequence[str]) -> list[str]:
    """Boxes (centre and size) and scores that come from no common table."""
    made, scores = [], []
    for value, s in zip(raw, STRIDES, strict=True):
        reg, _, cls = build.split(value, [4, 1, CLASSES], 1)
        cells = build.size_hw[0] // s * (build.size_hw[1] // s)
        made.append(build.reshape(reg, [1, 4, cells]))
        scores.append(build.reshape(build.add("Sigmoid", [cls]), [1, CLASSES, cells]))
    boxes = decoded(build, build.add("Concat", made, axis=2))
    ready = [
        build.transpose(each, [0, 2, 1]) for each in (boxes, build.add("Concat", scores, axis=2))
    ]
    return list(build.add("EfficientNMS_TRT", ready, count=4, domain="TRT", box_coding=1))


def _joined_levels(build: Builder, raw: Sequence[str]) -> list[str]:
    """As YOLOv5-Lite ends: maps through a sigmoid, not decoded, in one table."""
    tables = [
        build.reshape(build.add("Sigmoid", [level]), [1, -1, 5 + CLASSES])
        for level in levels(build, raw)
    ]
    return [build.add("Concat", tables, axis=1)]


BINS = 8


def _distributions(build: Builder, raw: Sequence[str]) -> list[str]:
    """Scores of every level, then distances: as NanoDet and PicoDet end."""
    scores, distances = [], []
    for value in raw:
        score, distance = build.split(value, [CLASSES, 4 * BINS], 1)
        flat = build.reshape(build.add("Sigmoid", [score]), [1, CLASSES, -1])
        scores.append(build.transpose(flat, [0, 2, 1]))
        distances.append(build.transpose(build.reshape(distance, [1, 4 * BINS, -1]), [0, 2, 1]))
    return [*scores, *distances]


def _by_distances(maps: Sequence[Array], strides: Sequence[int] = STRIDES) -> Array:
    tables = []
    for level, stride in zip(maps, strides, strict=True):
        height, width = level.shape[2:]
        flat = level.reshape(CLASSES + 4 * BINS, -1).T
        shares = np.exp(flat[:, CLASSES:].reshape(-1, 4, BINS))
        means = (shares @ np.arange(BINS)) / shares.sum(2)
        rows_, columns = np.mgrid[:height, :width]
        middle = np.stack((columns, rows_), -1).reshape(-1, 2) + 0.5
        low, high = middle - means[:, :2], middle + means[:, 2:]
        boxes = np.concatenate([(low + high) / 2, high - low], 1) * stride
        tables.append(np.concatenate([boxes, sigmoid(flat[:, :CLASSES])], 1))
    return np.concatenate(tables).T[None].astype(np.float32)


def _bgr_imagenet(rgb: Array) -> Array:
    return _imagenet(rgb)[:, ::-1]


RAW = {"columns": 3 * (5 + CLASSES)}
PADDLE = {"inputs": {"scale_factor": [1, 2]}, "fit": "stretch-cubic"}
YOLOX = {"pixels": _bgr_255, "fit": "corner"}
CASES = {
    "yolov6": Case(_plain(objectness=False), _anchor_free(False), "yolov6"),
    "yolov6 0.1": Case(_plain(objectness=True), _anchor_free(True), "yolov6"),
    "yolov6, onnxruntime": Case(_onnxruntime_end, _anchor_free(False), "yolov6"),
    "yolov6, tensorrt 8": Case(_tensorrt_end, _anchor_free(False), "yolov6"),
    "yolov6, tensorrt 7": Case(_tensorrt7_end, _anchor_free(False), "yolov6"),
    "boxes-scores, tensorrt": Case(
        _apart_end, _anchor_free(False), None, asked="boxes-scores"
    ),
    "yolox": Case(
        _plain(objectness=True), _anchor_free(True), "yolox", focus=True, head="head", **YOLOX
    ),
    "yolox-raw": Case(
        _plain(objectness=True, decode=False), _anchor_free(True), "yolox-raw", head="head", **YOLOX
    ),
    "yolox-legacy": Case(
        _plain(objectness=True), _anchor_free(True), "yolox-legacy",
        focus=True, head="head", fit="corner", pixels=_imagenet,
    ),
    "yolox-legacy-raw": Case(
        _plain(objectness=True, decode=False), _anchor_free(True), "yolox-legacy-raw",
        head="head", fit="corner", pixels=_imagenet,
    ),
    "yolov5": Case(_yolov5_rows, _anchor_based("yolov5"), "yolov5", head="model.24", **RAW),
    "yolov5 with levels": Case(
        lambda b, raw: [*_yolov5_rows(b, raw), *levels(b, raw)],
        _anchor_based("yolov5"), "yolov5", **RAW,
    ),
    "yolov5-levels": Case(levels, _anchor_based("yolov5"), None, "yolov5-levels", **RAW),
    "yolov7-levels": Case(levels, _anchor_based("yolov7"), None, "yolov7-levels", **RAW),
    "yolov5-levels, one table": Case(
        _joined_levels, _anchor_based("yolov5"), None, "yolov5-levels", **RAW
    ),
    "nanodet": Case(
        _distributions, _by_distances, "nanodet", None, _bgr_imagenet, columns=CLASSES + 4 * BINS
    ),
    "yolov10": Case(selected, _anchor_free(False), "yolov10", fit="ultralytics"),
    "yolov8": Case(decoded_columns, _anchor_free(False), "yolov8", head="model.22"),
    "ppyoloe": Case(_paddle, _anchor_free(False), None, "ppyoloe", _imagenet, **PADDLE),
    "ppyoloe-plus": Case(_paddle, _anchor_free(False), None, "ppyoloe-plus", **PADDLE),
    "ppyoloe-plus, one table": Case(
        _paddle_rows, _anchor_free(False), None, "ppyoloe-plus", **PADDLE
    ),
    "damoyolo": Case(
        _damo, _anchor_free(False), None, "damoyolo", _rgb_255, "corner-black"
    ),
}  # fmt: skip


def _build(
    case: Case,
    path: Path,
    *,
    named: bool = True,
    size_hw: tuple[int, int] = SIZE_HW,
    **options: Any,
) -> tuple[Path, Path]:
    """The file in its layout, and one of the network alone."""
    files = []
    for name, tail in ((path.name, case.tail), (f"raw_{path.name}", lambda _, raw: raw)):
        build = Builder(named, size_hw)
        head = case.head
        largest = float(case.pixels(np.ones((1, 3, 1, 1), np.float32)).max())
        raw = network(
            build,
            "images",
            columns=case.columns,
            head=head,
            focus=case.focus,
            pixels=255.0 if largest == 255 else 1.0,
        )
        inputs = case.inputs if name == path.name else None
        files.append(save(build, path.with_name(name), tail(build, raw), inputs=inputs, **options))
    return files[0], files[1]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_predictions_are_what_the_network_means(tmp_path: Path, case: Case) -> None:
    path, raw = _build(case, tmp_path / "tiny.onnx")
    graph = from_onnx(path, layout=case.asked)
    expected = case.expected(raw_maps(raw, case.pixels(IMAGE)))
    np.testing.assert_allclose(run(graph.model, IMAGE), expected, rtol=2e-4, atol=2e-4)
    assert graph.spec.family == case.family
    assert graph.spec.fit == case.fit
    assert graph.spec.strides == STRIDES
    assert graph.spec.size_hw == SIZE_HW


def test_fourth_stride_has_anchors_of_its_own(tmp_path: Path) -> None:
    """As YOLOv5's P6 and YOLOv7's W6 to E6E end: four levels before the decode."""
    size_hw, strides = (128, 192), (8, 16, 32, 64)
    files = []
    for name in ("tiny.onnx", "raw.onnx"):
        build = Builder(named=True, size_hw=size_hw, strides=strides)
        raw = network(build, "images", columns=3 * (5 + CLASSES), head="detect", focus=False)
        outputs = raw if name == "raw.onnx" else levels(build, raw)
        files.append(save(build, tmp_path / name, outputs))
    image = np.random.default_rng(1).random((1, 3, *size_hw), np.float32)
    table = sigmoid(rows(raw_maps(files[1], image), 3))
    boxes = anchored(table, ANCHORS["p6"], size_hw, strides)
    graph = from_onnx(files[0])
    assert graph.spec.family == "p6-levels"
    assert graph.spec.strides == strides
    expected = contract(boxes, table[:, 5:] * table[:, 4:5])
    np.testing.assert_allclose(run(graph.model, image), expected, rtol=2e-4, atol=2e-4)


def test_four_levels_of_distributions_may_be_picodet(tmp_path: Path) -> None:
    size_hw, strides = (128, 192), (8, 16, 32, 64)
    files = []
    for name in ("tiny.onnx", "raw.onnx"):
        build = Builder(named=True, size_hw=size_hw, strides=strides)
        raw = network(build, "images", columns=CLASSES + 4 * BINS, head="head", focus=False)
        outputs = raw if name == "raw.onnx" else _distributions(build, raw)
        files.append(save(build, tmp_path / name, outputs))
    with pytest.raises(CheckpointError, match="pass --layout with one of nanodet, picodet"):
        from_onnx(files[0])
    image = np.random.default_rng(1).random((1, 3, *size_hw), np.float32)
    graph = from_onnx(files[0], layout="picodet")
    expected = _by_distances(raw_maps(files[1], _imagenet(image)), strides)
    np.testing.assert_allclose(run(graph.model, image), expected, rtol=2e-4, atol=2e-4)
    assert (graph.spec.strides, graph.spec.fit) == (strides, "stretch-cubic")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_layout_is_never_guessed(tmp_path: Path, case: Case) -> None:
    path, _ = _build(case, tmp_path / "tiny.onnx")
    if case.recognised is not None:
        assert from_onnx(path).spec.family == case.recognised
        return
    with pytest.raises(CheckpointError, match=rf"pass --layout with one of .*{case.asked}"):
        from_onnx(path)


@pytest.mark.parametrize(
    ("case", "candidates"),
    [("yolov6 0.1", "yolov6, yolox-legacy"), ("ppyoloe-plus", "ppyoloe-plus, ppyoloe")],
)
def test_only_what_can_be_is_offered(tmp_path: Path, case: str, candidates: str) -> None:
    path, _ = _build(CASES[case], tmp_path / "tiny.onnx", named=False)
    with pytest.raises(CheckpointError, match=rf"with one of {candidates}$"):
        from_onnx(path)


def test_head_of_damo_yolo_names_itself(tmp_path: Path) -> None:
    build = Builder(named=True)
    raw = network(build, "images", columns=5 + CLASSES, head="head", focus=False)
    for node in build.nodes:
        node.name = node.name.replace("cls_preds", "gfl_cls")
    path = save(build, tmp_path / "tiny.onnx", _damo(build, raw))
    assert from_onnx(path).spec.family == "damoyolo"


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("yolov9000", "unknown layout 'yolov9000'; known are yolov6, "),
        ("yolov8", "do not fit layout yolov8; yolov6, yolox, yolox-legacy would fit"),
        ("yolox-raw", r"do not fit layout yolox-raw \(it gives .*\); yolov6, yolox, .* would fit"),
    ],
)
def test_layout_that_cannot_be_is_an_error(tmp_path: Path, layout: str, message: str) -> None:
    path, _ = _build(CASES["yolov6"], tmp_path / "tiny.onnx")
    with pytest.raises(CheckpointError, match=message):
        from_onnx(path, layout=layout)


def test_input_that_is_unknown_is_an_error(tmp_path: Path) -> None:
    build = Builder(named=True)
    raw = network(build, "images", columns=5 + CLASSES, head="detect", focus=False)
    shifted = build.add("Add", [dense(build, raw, objectness=False), "temperature"])
    path = save(build, tmp_path / "tiny.onnx", [shifted], inputs={"temperature": [1]})
    with pytest.raises(CheckpointError, match="takes temperature beside the image"):
        from_onnx(path)


def test_preparation_inside_the_file_is_not_done_twice(tmp_path: Path) -> None:
    """YOLOv6's exporter can put the exchange of colours and the division by 255 into the graph."""
    build = Builder(named=True)
    ends = [build.constant([each], np.int64) for each in (-1, -(10**6), 1, -1)]
    turned = build.add("Slice", ["images", *ends])
    scaled = build.add("Mul", [turned, build.constant(1 / 255)])
    raw = network(build, scaled, columns=5 + CLASSES, head="detect", focus=False)
    path = save(build, tmp_path / "tiny.onnx", [dense(build, raw, objectness=False)])
    _, plain = _build(CASES["yolov6"], tmp_path / "plain.onnx")
    expected = _anchor_free(False)(raw_maps(plain, IMAGE))
    np.testing.assert_allclose(run(from_onnx(path).model, IMAGE), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("batch", ["batch", 4], ids=["free batch", "batch of four"])
def test_batch_becomes_one(tmp_path: Path, batch: int | str) -> None:
    """A network of four images at once whose reshapes are free of it."""
    case = Case(_batch_free, _anchor_free(False), "yolov8")
    path, _ = _build(case, tmp_path / "tiny.onnx", batch=batch)
    _, raw = _build(case, tmp_path / "one.onnx")
    expected = _anchor_free(False)(raw_maps(raw, IMAGE))
    np.testing.assert_allclose(run(from_onnx(path).model, IMAGE), expected, rtol=2e-4, atol=2e-4)


def _batch_free(build: Builder, raw: Sequence[str]) -> list[str]:
    flat = [build.reshape(value, [0, 5 + CLASSES, -1]) for value in raw]
    joined = build.add("Concat", flat, axis=2)
    reg, _, cls = build.split(joined, [4, 1, CLASSES], 1)
    return [build.add("Concat", [decoded(build, reg), build.add("Sigmoid", [cls])], axis=1)]


@pytest.mark.parametrize("size_hw", [(96, 64), (160, 128)], ids=str)
@pytest.mark.parametrize("name", ["yolov6", "yolox-raw", "yolov5", "yolov8", "yolov7-levels"])
def test_constants_of_the_old_size_are_made_anew(
    tmp_path: Path, name: str, size_hw: tuple[int, int]
) -> None:
    """Resized is what the same network exported for that size is."""
    case = CASES[name]
    path, _ = _build(case, tmp_path / "tiny.onnx")
    small = from_onnx(path, size_hw=size_hw, layout=case.asked)
    exported, _ = _build(case, tmp_path / "other.onnx", size_hw=size_hw)
    expected = from_onnx(exported, layout=case.asked)
    image = np.random.default_rng(2).random((1, 3, *size_hw), np.float32)
    np.testing.assert_allclose(
        run(small.model, image), run(expected.model, image), rtol=1e-4, atol=1e-4
    )


def test_grid_that_depends_on_the_size_itself_is_an_error(tmp_path: Path) -> None:
    """Cells in shares of the image: what they were multiplied by is not known."""
    build = Builder(named=True)
    raw = network(build, "images", columns=5 + CLASSES, head="detect", focus=False)
    reg, _, cls = build.split(table_of(build, raw), [4, 1, CLASSES], 1)
    cells, steps = grid(SIZE_HW)
    sides = np.array([[SIZE_HW[1]], [SIZE_HW[0]]], np.float32)
    share = build.constant(((cells * steps).T / sides)[None])
    centre, size = build.split(reg, [2, 2], 1)
    moved = build.add("Mul", [build.add("Add", [centre, share]), build.constant(sides[None])])
    parts = [moved, size, build.add("Sigmoid", [cls])]
    path = save(build, tmp_path / "tiny.onnx", [build.add("Concat", parts, axis=1)])
    assert from_onnx(path).spec.size_hw == SIZE_HW
    with pytest.raises(CheckpointError, match=r"its decode is fixed to 64x96 \(HxW\)"):
        from_onnx(path, size_hw=(128, 96))


@pytest.mark.parametrize("named", [True, False], ids=["named", "numbered"])
def test_peaked_kernels_are_found_and_parts_told(tmp_path: Path, named: bool) -> None:
    path, _ = _build(
        CASES["yolov8" if not named else "yolov6"], tmp_path / "tiny.onnx", named=named
    )
    graph = from_onnx(path)
    found = [conv.part for conv in graph.spec.reparameterized]
    assert found == ["backbone", "neck"]
    assert len(found) == len(PEAKED)
    parts = [
        node.get_friendly_name().lstrip("/").replace(".", "/").split("/")[0]
        for node in graph.model.get_ordered_ops()
        if node.get_type_name() == "Convolution"
    ]
    # By structure, the stems that both branches read are no heads, and one is not upsampled.
    assert parts.count("backbone") == (5 if named else 6)
    assert parts.count("neck") == (2 if named else 4)
    assert len(parts) == 5 + 2 + 3 * 7


def test_decode_stays_float_whatever_the_names(tmp_path: Path) -> None:
    path, _ = _build(CASES["yolov8"], tmp_path / "tiny.onnx", named=False)
    graph = from_onnx(path)
    decode = set(decode_nodes(graph))
    kinds = {n.get_type_name() for n in graph.model.get_ops() if n.get_friendly_name() in decode}
    assert {"Exp", "Sigmoid", "Concat"} <= kinds
    assert "Convolution" not in kinds


@pytest.mark.parametrize(
    "written",
    ["{0: 'cat', 1: 'dog', 2: 'cow'}", '["cat", "dog", "cow"]'],
    ids=["dictionary", "list"],
)
def test_class_names_in_the_file_are_read(tmp_path: Path, written: str) -> None:
    path, _ = _build(CASES["yolov8"], tmp_path / "tiny.onnx", metadata={"names": written})
    assert from_onnx(path).spec.class_names == ("cat", "dog", "cow")


@pytest.mark.parametrize("written", ["__import__('os')", "{1: 'a'}", "{0: 7}", "(", "7"])
def test_class_names_that_are_none_become_placeholders(tmp_path: Path, written: str) -> None:
    path, _ = _build(CASES["yolov8"], tmp_path / "tiny.onnx", metadata={"names": written})
    assert from_onnx(path).spec.has_placeholder_names


def test_every_layout_is_tested() -> None:
    own = {"p6-levels", "picodet"}  # those of four strides have tests of their own
    own |= {"rtdetr", "rtdetr-imagenet", "rfdetr", "detr"}  # test_onnx_queries.py
    own |= {"scrfd", "yunet"}  # test_onnx_faces.py
    assert {case.family for case in CASES.values()} | own == set(LAYOUTS)
