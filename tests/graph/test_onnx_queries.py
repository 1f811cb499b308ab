"""Files of detectors that predict by queries, in every form that their exporters give them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import openvino as ov
import pytest
from onnx_detectors import SIZE_HW, Array, Builder, contract, save, sigmoid
from onnx_queries import BEST, QUERIES, best_of_all, best_pairs, query_network, raw_queries

from detq.errors import CheckpointError, GraphError
from detq.graph.execute import compile_exact
from detq.graph.foreign import from_onnx, possible_layouts
from detq.graph.surgery import consumers, downstream, nodes_of_type, producer
from detq.quant.passes.place_quantizers import PlaceQuantizers
from detq.quant.quantizers import SHARING_OPERATIONS, activation_nodes
from detq.records.coco_names import COCO_IDS, COCO_NAMES
from detq.runtime.detector import Detector
from detq.runtime.postprocess import PostprocessOptions

CLASSES = 3
IMAGE = np.random.default_rng(1).random((1, 3, *SIZE_HW), np.float32)
MEAN, STD = (np.reshape(v, (1, 3, 1, 1)) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
SIZES: dict[str, Sequence[int | str]] = {"orig_target_sizes": ["N", 2]}
Ends = tuple[str, str]


@dataclass(frozen=True)
class Case:
    """A file: its tail, what it is taken for, and what becomes of the logits."""

    tail: Callable[[Builder, str, str], list[str]]
    recognised: str | None
    asked: str | None = None
    columns: int = CLASSES
    scores: Callable[[Array], Array] = sigmoid
    imagenet: bool = False
    patches: bool = False
    whole: dict[str, Sequence[int | str]] | None = None
    fit: str = "stretch"


def _named(boxes_name: str, logits_name: str) -> Callable[[Builder, str, str], list[str]]:
    def tail(build: Builder, logits: str, boxes: str) -> list[str]:
        return [build.called(boxes, boxes_name), build.called(logits, logits_name)]

    return tail


def _table(build: Builder, logits: str, boxes: str) -> list[str]:
    return [build.add("Concat", [boxes, build.add("Sigmoid", [logits])], axis=2)]


def _table_of_best(build: Builder, logits: str, boxes: str) -> list[str]:
    """[1, BEST, 6]: centre and size in shares, score, class."""
    picked, values, places = best_pairs(build, logits, boxes)
    classes = build.add("Mod", [places, build.constant(CLASSES, np.int64)])
    last = build.constant([2], np.int64)
    columns = [build.add("Unsqueeze", [each, last]) for each in (values, classes)]
    columns[1] = build.add("Cast", [columns[1]], to=1)
    return [build.add("Concat", [picked, *columns], axis=2)]


def _masked(build: Builder, logits: str, boxes: str) -> list[str]:
    """Which part of the input shows the image takes part in the result."""
    mask = build.add("Cast", ["pixel_mask"], to=1)
    share = build.add("ReduceMean", [mask], axes=[1, 2], keepdims=1)
    return _named("pred_boxes", "logits")(build, build.add("Mul", [logits, share]), boxes)


def _softmax(logits: Array) -> Array:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True), np.float32)[:, :-1]


def _best(**options: Any) -> Callable[[Builder, str, str], list[str]]:
    return lambda build, logits, boxes: best_of_all(build, logits, boxes, CLASSES, **options)


FIRST = {"columns": CLASSES + 1, "imagenet": True}
CASES = {
    "rt-detr, d-fine, deim": Case(_best(), "rtdetr", whole=SIZES),
    "deimv2 on a vision transformer": Case(
        _best(), "rtdetr-imagenet", whole=SIZES, imagenet=True, patches=True
    ),
    "rt-detr with a softmax": Case(
        lambda build, logits, boxes: best_of_all(build, logits, boxes, 4, softmax=True),
        "rtdetr", columns=4, scores=_softmax, whole=SIZES,
    ),
    "rt-detr of ultralytics": Case(_table_of_best, "rtdetr"),
    "rt-detr of ultralytics before 8.4": Case(_table, "rtdetr"),
    "rt-detr of hugging face": Case(_named("pred_boxes", "logits"), "rtdetr"),
    "rf-detr": Case(
        _named("dets", "labels"), "rfdetr", patches=True,
        scores=lambda logits: sigmoid(logits)[:, :-1], **FIRST,
    ),
    "detr": Case(
        _masked, None, "detr", scores=_softmax, fit="corner",
        whole={"pixel_mask": ["N", "H", "W"]}, **FIRST,
    ),
}  # fmt: skip


def _build(case: Case, path: Path, **options: Any) -> Path:
    build = Builder(named=True)
    logits, boxes = query_network(build, "images", case.columns, patches=case.patches)
    ends = case.tail(build, logits, boxes)
    whole = ("labels",) if case.whole == SIZES else ()
    return save(build, path, ends, whole=case.whole, whole_outputs=whole, **options)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_predictions_are_what_the_network_means(tmp_path: Path, case: Case) -> None:
    graph = from_onnx(_build(case, tmp_path / "tiny.onnx"), layout=case.asked)
    pixels = ((IMAGE - MEAN) / STD).astype(np.float32) if case.imagenet else IMAGE
    logits, boxes = raw_queries(tmp_path / "raw.onnx", pixels, case.columns, patches=case.patches)
    expected = contract(boxes * (SIZE_HW[::-1] * 2), case.scores(logits))
    found = np.asarray(compile_exact(graph.model)(IMAGE)[0])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert graph.spec.family == (case.asked or case.recognised)
    assert graph.spec.end_to_end
    assert graph.spec.fit == case.fit
    assert graph.spec.class_count == CLASSES


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_layout_is_never_guessed(tmp_path: Path, case: Case) -> None:
    path = _build(case, tmp_path / "tiny.onnx")
    if case.recognised is not None:
        assert from_onnx(path).spec.family == case.recognised
        return
    with pytest.raises(CheckpointError, match=r"with one of .*\bdetr"):
        from_onnx(path)


@pytest.mark.parametrize("batch", [1, "N"], ids=["one image", "free batch"])
def test_detections_are_those_of_the_file_itself(tmp_path: Path, batch: int | str) -> None:
    """From an image of another shape to boxes in its pixels: the same as its own choice gives."""
    path = _build(CASES["rt-detr, d-fine, deim"], tmp_path / "tiny.onnx", batch=batch)
    image = np.random.default_rng(2).integers(0, 256, (48, 120, 3), np.uint8)
    placed = cv2.resize(image, SIZE_HW[::-1])[..., ::-1].transpose(2, 0, 1)[None] / np.float32(255)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    sizes = np.array([[120, 48]], np.int64)
    labels, boxes, scores = session.run(None, {"images": placed, "orig_target_sizes": sizes})
    options = PostprocessOptions(confidence=0.01, iou=0.5, max_detections=BEST)
    found = Detector(from_onnx(path), postprocess=options).detect(image)
    np.testing.assert_allclose(found.scores, scores[0], atol=1e-3)
    np.testing.assert_array_equal(found.class_ids, labels[0])
    inside = np.clip(boxes[0], 0, [120, 48, 120, 48])
    np.testing.assert_allclose(found.boxes_xyxy_px, inside, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(("tail", "columns"), [("rfdetr", 91), ("detr", 92)])
def test_columns_of_coco_become_its_80_classes(tmp_path: Path, tail: str, columns: int) -> None:
    """Its category ids go to 90 and leave out ten, and 0."""
    case = Case(_named("dets", "labels"), "rfdetr", columns=columns)
    graph = from_onnx(_build(case, tmp_path / "tiny.onnx"), layout=tail)
    assert graph.spec.class_names == COCO_NAMES
    pixels = ((IMAGE - MEAN) / STD).astype(np.float32)
    logits, _ = raw_queries(tmp_path / "raw.onnx", pixels, columns)
    scores = sigmoid(logits) if tail == "rfdetr" else _softmax(logits)
    found = np.asarray(compile_exact(graph.model)(IMAGE)[0])[0, 4:].T
    np.testing.assert_allclose(found, scores[:, COCO_IDS], atol=1e-3)


@pytest.mark.parametrize(
    ("count", "columns"), [(2, CLASSES), (3, CLASSES)], ids=["background apart", "all are classes"]
)
def test_names_in_the_file_say_which_columns_are_classes(
    tmp_path: Path, count: int, columns: int
) -> None:
    names = str([f"thing {index}" for index in range(count)])
    case = Case(_named("dets", "labels"), None, columns=columns)
    path = _build(case, tmp_path / "tiny.onnx", metadata={"names": names})
    if count == columns:  # no room for the column that is no class
        with pytest.raises(CheckpointError, match="rtdetr"):
            from_onnx(path, layout="rfdetr")
        return
    assert from_onnx(path).spec.class_count == count


@pytest.mark.parametrize("inside", [False, True], ids=["logits", "scores"])
def test_small_logits_are_not_taken_for_scores(tmp_path: Path, inside: bool) -> None:
    """All of them in 0..1, as happened; a sigmoid in the file is seen by what it is."""

    def tail(build: Builder, logits: str, boxes: str) -> list[str]:
        limits = [] if inside else [build.constant(0.0), build.constant(1.0)]
        small = build.add("Sigmoid" if inside else "Clip", [logits, *limits])
        return _named("pred_boxes", "logits")(build, small, boxes)

    graph = from_onnx(_build(Case(tail, "rtdetr"), tmp_path / "tiny.onnx"))
    logits, _ = raw_queries(tmp_path / "raw.onnx", IMAGE, CLASSES)
    expected = sigmoid(logits) if inside else sigmoid(np.clip(logits, 0, 1))
    found = np.asarray(compile_exact(graph.model)(IMAGE)[0])[0, 4:].T
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_four_columns_of_scores_are_not_taken_for_boxes(tmp_path: Path) -> None:
    case = Case(_named("dets", "labels"), "rfdetr", columns=4)
    graph = from_onnx(_build(case, tmp_path / "tiny.onnx"))
    pixels = ((IMAGE - MEAN) / STD).astype(np.float32)
    _, boxes = raw_queries(tmp_path / "raw.onnx", pixels, 4)
    found = np.asarray(compile_exact(graph.model)(IMAGE)[0])[0, :4].T
    np.testing.assert_allclose(found, boxes * (SIZE_HW[::-1] * 2), atol=1e-2)


def test_outputs_of_other_names_are_asked_for(tmp_path: Path) -> None:
    path = _build(Case(_named("a", "b"), None), tmp_path / "tiny.onnx")
    four = ("rtdetr", "rtdetr-imagenet", "rfdetr", "detr")
    with pytest.raises(CheckpointError, match=f"with one of {', '.join(four)}$"):
        from_onnx(path)
    assert possible_layouts(path, None) == four


def test_boxes_in_pixels_are_not_taken_for_shares(tmp_path: Path) -> None:
    """An exporter that multiplied them already, under the same names."""

    def tail(build: Builder, logits: str, boxes: str) -> list[str]:
        pixels = build.add("Mul", [boxes, build.constant(SIZE_HW[::-1] * 2)])
        return _named("dets", "labels")(build, logits, pixels)

    path = _build(Case(tail, None), tmp_path / "tiny.onnx")
    with pytest.raises(CheckpointError, match="of the boxes outside of the image"):
        from_onnx(path)


def test_positions_in_double_precision_are_read(tmp_path: Path) -> None:
    """As Hugging Face's D-FINE counts them: by a Range, whose type is no constant's."""

    def tail(build: Builder, logits: str, boxes: str) -> list[str]:
        ends = [build.constant(each, np.float64) for each in (0, QUERIES, 1)]
        half = build.constant(0.5, np.float64)
        waves = build.add("Cos", [build.add("Mul", [build.add("Range", ends), half])])
        column = build.reshape(build.add("Cast", [waves], to=1), [1, QUERIES, 1])
        return _named("pred_boxes", "logits")(build, build.add("Add", [logits, column]), boxes)

    graph = from_onnx(_build(Case(tail, "rtdetr"), tmp_path / "tiny.onnx"))
    logits, _ = raw_queries(tmp_path / "raw.onnx", IMAGE, CLASSES)
    expected = sigmoid(logits + np.cos(np.arange(QUERIES) / 2)[:, None])
    found = np.asarray(compile_exact(graph.model)(IMAGE)[0])[0, 4:].T
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_masks_beside_boxes_are_an_error(tmp_path: Path) -> None:
    def tail(build: Builder, logits: str, boxes: str) -> list[str]:
        return [*_named("dets", "labels")(build, logits, boxes), build.called(logits, "masks")]

    path = _build(Case(tail, None), tmp_path / "tiny.onnx")
    with pytest.raises(CheckpointError, match="not masks, keypoints"):
        from_onnx(path)


@pytest.mark.parametrize("patches", [False, True], ids=["convolutions", "patches"])
def test_attention_and_what_chooses_stay_float(tmp_path: Path, patches: bool) -> None:
    """Products with weights are INT8 up to the last convolution, nothing else in between is."""
    case = CASES["deimv2 on a vision transformer" if patches else "rt-detr, d-fine, deim"]
    graph = from_onnx(_build(case, tmp_path / "tiny.onnx"))
    placed = PlaceQuantizers().place(graph, [IMAGE])
    rounded = activation_nodes(placed)
    readers = {
        user.get_type_name()
        for node in rounded
        for user in downstream_through(node, SHARING_OPERATIONS)
    }
    assert readers - {"Add"} == {"Convolution", "MatMul"}  # a residual sum reads what MatMul does
    whole = [
        node
        for node in nodes_of_type(placed, "MatMul")
        if producer(node, 1).get_type_name() == "FakeQuantize"
    ]
    assert len(whole) == 4  # queries, keys, values and what is made of them
    last = nodes_of_type(placed, "Convolution")[-1]
    behind = {node.get_type_name() for node in downstream([last])}
    assert {"TopK", "MVN", "MatMul"} <= behind
    assert "FakeQuantize" not in behind


def downstream_through(node: ov.Node, handing_on: Collection[str]) -> list[ov.Node]:
    """Who reads its tensor, also behind operations that hand it on."""
    found = []
    for user in consumers(node):
        own = user.get_type_name() in handing_on
        found += downstream_through(user, handing_on) if own else [user]
    return found


def test_another_size_is_an_error(tmp_path: Path) -> None:
    """Positions of a transformer are made for one size."""
    path = _build(CASES["rt-detr, d-fine, deim"], tmp_path / "tiny.onnx")
    with pytest.raises((CheckpointError, GraphError), match="fixed to 64x96"):
        from_onnx(path, size_hw=(96, 64))


def test_a_size_that_no_stride_divides_is_no_error(tmp_path: Path) -> None:
    """RF-DETR's 560 pixels are 40 patches of 14."""
    build = Builder(named=True, size_hw=(48, 80))
    logits, boxes = query_network(build, "images", CLASSES, patches=True)
    path = save(build, tmp_path / "tiny.onnx", _named("dets", "labels")(build, logits, boxes))
    graph = from_onnx(path)
    assert graph.spec.size_hw == (48, 80)
    assert graph.model.outputs[0].get_shape()[2] == QUERIES
