from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detq.config import DatasetConfig, read_dataset
from detq.data.annotation import Annotations
from detq.data.dataset import Split, load_split
from detq.data.images import read_image_bgr
from detq.errors import DataError
from detq.evaluation.evaluator import evaluate, run_detector, score_run
from detq.evaluation.protocol import PROTOCOLS
from detq.graph.convert import from_torch
from detq.graph.detector_graph import DetectorGraph
from detq.graph.foreign import from_onnx
from detq.runtime.detector import Detector, Rect
from detq.tasks import detection


def _split(images: Path, *names: str) -> Split:
    named = dict(enumerate(names or ("red", "green", "blue")))
    root = images.parents[1]
    return load_split(DatasetConfig(path=root, val="images/val", names=named), "val")


@pytest.fixture
def split_of_ids_from_1(colour_images: Path) -> Split:
    """With an object 0, not even a perfect detector would score 100 in pycocotools."""
    split = _split(colour_images)
    assert split.annotations is not None
    numbered = enumerate(split.annotations, start=1)
    return replace(
        split,
        annotations=Annotations(replace(item, annotation_id=number) for number, item in numbered),
    )


def test_detector_that_is_right_scores_100(
    colour_graph: DetectorGraph, split_of_ids_from_1: Split
) -> None:
    seen: list[tuple[int, int]] = []
    split = split_of_ids_from_1
    result = evaluate(Detector(colour_graph), split, progress=lambda *step: seen.append(step))
    assert (result.map, result.map50) == (pytest.approx(100), pytest.approx(100))
    assert result.map_small is None
    assert (result.model, result.images, result.precision) == ("colours", 2, "fp32")
    assert result.seconds > 0
    assert seen == [(1, 2), (2, 2)]


def test_detector_with_other_names_scores_0(
    colour_graph: DetectorGraph, colour_images: Path
) -> None:
    renamed = replace(colour_graph.spec, class_names=("blue", "red", "green"))
    graph = DetectorGraph(colour_graph.model, renamed)
    assert evaluate(Detector(graph), _split(colour_images)).map == 0


def test_class_that_the_model_cannot_find_is_an_error(
    colour_graph: DetectorGraph, colour_images: Path
) -> None:
    with pytest.raises(DataError, match="does not know 1 of the data set's classes: pink"):
        evaluate(Detector(colour_graph), _split(colour_images, "red", "pink", "blue"))


@pytest.mark.parametrize("has_json", [False, True], ids=["label files", "COCO JSON"])
def test_damaged_image_is_left_out_and_counted(
    colour_graph: DetectorGraph, colour_images: Path, has_json: bool
) -> None:
    """As in YOLOv6 and Ultralytics; its objects are then neither found nor missed."""
    split = _split(colour_images)
    if has_json:
        names = {0: "red", 1: "green", 2: "blue"}
        truth = split.document(renumbered=True)
        (colour_images / "truth.json").write_text(json.dumps(truth))
        config = DatasetConfig(
            path=colour_images, val=".", names=names, annotations={"val": "truth.json"}
        )
        split = load_split(config, "val")
    (colour_images / "b.png").write_bytes(b"no image")
    result = evaluate(Detector(colour_graph), split, protocol=PROTOCOLS["coco"])
    assert (result.images, result.data.images, result.data.damaged_images) == (1, 1, 1)
    assert result.map == pytest.approx(100)


def test_all_images_damaged_is_an_error(colour_graph: DetectorGraph, colour_images: Path) -> None:
    split = _split(colour_images)
    for path in split.paths:
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="all 2 images are damaged"):
        evaluate(Detector(colour_graph), split)


def test_split_without_ground_truth_is_an_error(
    colour_graph: DetectorGraph, colour_images: Path
) -> None:
    split = replace(_split(colour_images), annotations=None)
    with pytest.raises(DataError, match="no ground truth"):
        evaluate(Detector(colour_graph), split)


def test_scores_of_each_class_are_by_name(
    colour_graph: DetectorGraph, split_of_ids_from_1: Split
) -> None:
    detector, split = Detector(colour_graph), split_of_ids_from_1
    scores = score_run(detector, split, run_detector(detector, split.paths))
    maps = {name: one.map for name, one in scores.per_class.items()}
    assert maps == dict.fromkeys(("red", "green", "blue"), pytest.approx(100))


@pytest.mark.parametrize(
    ("size", "expected"),
    [("s", (30.47, 43.58)), ("l", (34.69, 49.53))],
    ids=["S", "L"],
)
def test_float_yolov6_lite_has_its_known_map(
    shared: Path, size: str, expected: tuple[float, float]
) -> None:
    config = read_dataset(shared / "data/coco256/data.yaml")
    annotated = {"annotations": {"val": "annotations/instances_val.json"}}
    split = load_split(config.model_copy(update=annotated), "val")
    graph = from_onnx(shared / f"checkpoints/yolov6lite_{size}_det.onnx")
    result = evaluate(Detector(graph), split)
    assert (result.map, result.map50) == pytest.approx(expected, abs=0.02)


@pytest.fixture(scope="module")
def yolov6n(shared: Path) -> Detector:
    from detq.adapters import fuse_model, load_checkpoint

    model = fuse_model(load_checkpoint(shared / "checkpoints/bccd_yolov6n.pt"))
    return Detector(from_torch(model.module, replace(model.spec, size_hw=(320, 320))))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("test", (46.98, 78.61, 51.12)), ("val", (47.97, 80.96, 51.42))],
    ids=["test", "val"],
)
def test_trained_yolov6n_scores_what_its_own_program_measured(
    shared: Path, yolov6n: Detector, name: str, expected: tuple[float, ...]
) -> None:
    config = read_dataset(shared / "data/bccd/data.yaml")
    result = evaluate(yolov6n, load_split(config, name))
    assert (result.map, result.map50, result.map75) == pytest.approx(expected, abs=0.02)


def test_object_0_is_all_that_label_files_and_json_differ_in(
    shared: Path, yolov6n: Detector
) -> None:
    """The JSON counts the same objects from 1: it gives 47.21 where the label files give 46.98."""
    config = read_dataset(shared / "data/bccd/data.yaml")
    by_labels = load_split(config, "test")
    annotated = {"annotations": {"test": "annotations/instances_test.json"}}
    by_json = load_split(config.model_copy(update=annotated), "test")
    assert by_labels.annotations is not None
    assert by_labels.paths == by_json.paths
    shifted = Annotations(
        replace(item, annotation_id=item.annotation_id + 1) for item in by_labels.annotations
    )
    run = run_detector(yolov6n, by_labels.paths)
    scores = score_run(yolov6n, by_json, run)
    assert scores.map == pytest.approx(47.21, abs=0.02)
    assert scores == score_run(yolov6n, replace(by_labels, annotations=shifted), run)
    assert scores == score_run(yolov6n, by_labels, run, protocol=PROTOCOLS["coco"])


@pytest.mark.parametrize(
    ("split", "expected"),
    [("test", (47.23, 79.13, 51.98)), ("val", (48.21, 81.87, 51.70))],
)
def test_rectangular_figures_are_the_original_programs(
    shared: Path, bccd_graph: DetectorGraph, split: str, expected: tuple[float, float, float]
) -> None:
    data = read_dataset(shared / "data/bccd/data.yaml")
    result = detection.evaluate(bccd_graph, data, split, rect=True)
    assert (result.map, result.map50, result.map75) == pytest.approx(expected, abs=0.005)


def test_images_of_many_shapes_keep_their_order(bccd_graph: DetectorGraph, tmp_path: Path) -> None:
    sides = [(40, 90), (90, 40), (40, 90), (64, 64), (90, 40)]
    for number, (height, width) in enumerate(sides):
        Image.new("RGB", (width, height), (40 * number, 90, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "9.png").write_bytes(b"no image")
    paths = sorted(tmp_path.iterdir())
    detector = Detector(bccd_graph, rect=Rect(0.5))
    run = run_detector(detector, paths)
    assert run.damaged == (paths[-1],)
    for path, found in zip(paths, run.detections, strict=False):
        alone = detector.detect(read_image_bgr(path))
        np.testing.assert_array_equal(found.boxes_xyxy_px, alone.boxes_xyxy_px)
