"""Ultralytics' detectors: the numbers that its own program gives, from files that are not run."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from ultralytics_models import CLASS_NAMES, FAMILIES, random_network, write_checkpoint

import detq
from detq.adapters import ultralytics_package
from detq.adapters.load import convert, read_model
from detq.adapters.ultralytics_config import read_config
from detq.artifact import write_artifact
from detq.config import WeightsConfig
from detq.data.letterbox import Preprocess
from detq.errors import ArtifactError, CheckpointError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.execute import compile_exact
from detq.quant.quantizer import split_graph
from detq.records import Detections
from detq.runtime.postprocess import PostprocessOptions, postprocess

TOLERANCE = 1e-3  # in pixels, and in scores
BLOCKS = {"yolov9t": 42, "yolov10n": 1, "rtdetr-resnet50": 12}
END_TO_END = {"yolov10n", "yolo26n", "rtdetr-resnet50"}
BEST = PostprocessOptions(confidence=0.0, iou=None)  # as a choice of the best gives them


@pytest.fixture(scope="module")
def network() -> Callable[[str], Any]:
    """Name of a family -> Ultralytics' own network."""
    return cache(random_network)


@pytest.fixture(scope="module")
def graph(
    network: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], DetectorGraph]:
    """Name of a family -> what detq makes of a checkpoint of that network."""
    folder = tmp_path_factory.mktemp("ultralytics")

    @cache
    def load(name: str) -> DetectorGraph:
        path = write_checkpoint(network(name), folder / f"{name}.pt", FAMILIES[name])
        return detq.load(path)

    return load


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """uint8 [90, 140, 3] BGR, neither square nor smooth."""
    small = np.random.default_rng(3).integers(0, 256, (9, 14, 3), np.uint8)
    return np.asarray(cv2.resize(small, (140, 90), interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_fused_graph_computes_what_ultralytics_does(
    name: str, network: Callable[[str], Any], graph: Callable[[str], DetectorGraph]
) -> None:
    size, found = FAMILIES[name], graph(name)
    spec = found.spec
    assert (spec.class_names, spec.size_hw) == (tuple(CLASS_NAMES.values()), (size, size))
    assert (spec.strides, spec.end_to_end) == ((8, 16, 32), name in END_TO_END)
    assert len(spec.reparameterized) == BLOCKS.get(name, 0)
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(2))
    actual = compile_exact(found.model)(images.numpy())[0]
    expected = _output_of(network(name), images)
    if name not in END_TO_END:
        np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)
    else:
        whole = Preprocess(spec.size_hw).plan(spec.size_hw)
        _assert_alike(postprocess(actual[0], whole, BEST), _end_to_end(expected[0], name, size))


def _output_of(network: Any, images: torch.Tensor) -> np.ndarray:
    """What it returns in evaluation mode, of its end-to-end branch where it has one."""
    network = copy.deepcopy(network)
    if hasattr(network.model[-1], "one2one_cv2"):
        network.end2end = True
    with torch.no_grad():
        return np.asarray(network(images)[0])


def _end_to_end(rows: np.ndarray, name: str, size: int) -> Detections:
    """Ultralytics' rows: corners in pixels, for RT-DETR centre and size in 0..1; score, class."""
    boxes = rows[:, :4]
    if name.startswith("rtdetr"):
        centre, half = boxes[:, :2] * size, boxes[:, 2:] * size / 2
        boxes = np.concatenate((centre - half, centre + half), axis=1)
    return Detections(boxes.clip(0, size), rows[:, 4], rows[:, 5].astype(np.int64))


def _assert_alike(actual: Detections, expected: Detections, tolerance: float = TOLERANCE) -> None:
    """The same detections; those of almost the same score may have changed places.

    Also with what was left out, so that of the 300 best the last are compared in their scores only.
    """
    assert len(actual) == len(expected) > 0
    np.testing.assert_allclose(actual.scores, expected.scores, rtol=0, atol=tolerance)
    last = expected.scores.min() * (1 + 1e-5) if len(expected) == BEST.max_detections else 0.0
    for one, other in ((actual, expected), (expected, actual)):
        compared = one.scores > last
        assert compared.mean() > 0.9
        columns = (one.boxes_xyxy_px, one.scores, one.class_ids)
        for box, score, class_id in zip(*(c[compared] for c in columns), strict=True):
            same = other.class_ids == class_id
            apart = np.abs(other.boxes_xyxy_px[same] - box).max(axis=1)
            assert np.maximum(apart, np.abs(other.scores[same] - score)).min() <= tolerance


@pytest.mark.parametrize("name", ["yolov8n", "yolo26n", "rtdetr-resnet50"])
def test_the_detector_finds_what_ultralytics_predicts(
    name: str,
    network: Callable[[str], Any],
    graph: Callable[[str], DetectorGraph],
    photo: np.ndarray,
) -> None:
    options = {"conf": 0.2, "iou": 0.45, "max_det": 300}
    predictor = _predictor(name, FAMILIES[name], options, nms=None if name == "yolov8n" else False)
    expected = predictor(source=photo, model=copy.deepcopy(network(name)))[0].boxes.data.numpy()
    found = detq.detector(graph(name), confidence=0.2, iou=0.45).detect(photo)
    reference = Detections(expected[:, :4], expected[:, 4], expected[:, 5].astype(np.int64))
    _assert_alike(found, reference)


def _predictor(name: str, size: int, options: dict[str, Any], nms: bool | None) -> Any:
    """Ultralytics' own, for square inputs; its warm-up would import torchvision."""
    from ultralytics.models.rtdetr.predict import RTDETRPredictor
    from ultralytics.models.yolo.detect.predict import DetectionPredictor

    base = RTDETRPredictor if name.startswith("rtdetr") else DetectionPredictor

    class Predictor(base):  # type: ignore[valid-type,misc]
        def setup_model(self, *args: Any, **kwargs: Any) -> None:
            super().setup_model(*args, **kwargs)
            self.done_warmup = True

    quiet = {"rect": False, "save": False, "verbose": False, "device": "cpu"}
    return Predictor(overrides={"imgsz": size, "nms": nms, **quiet, **options})


@pytest.mark.parametrize("name", ["yolov8n", "yolov10n"])
def test_the_whole_job(
    name: str,
    graph: Callable[[str], DetectorGraph],
    colour_data: Path,
    photo: np.ndarray,
    tmp_path: Path,
) -> None:
    ultralytics_package.import_tasks()
    from ultralytics import YOLO

    recipe = "cfws_kl" if name in BLOCKS else "kl"
    result = detq.quantize(graph(name), data=colour_data, recipe=recipe, calibration_images=2)
    assert len(result.quantized.split_layers) == BLOCKS.get(name, 0)
    # On some CPUs, with VNNI or without, OpenVINO computes one depthwise convolution of yolov10n,
    # 18,432 products, in float.
    assert result.int8_share > 0.9998
    directory = tmp_path / f"{name}_int8_openvino_model"
    result.save(directory)
    assert detq.evaluate(directory, data=colour_data).precision == "int8"
    again = detq.detector(directory, confidence=0.2, iou=0.7)
    assert again.spec == graph(name).spec
    options = {"conf": 0.2, "iou": 0.7, "max_det": 300}
    predictor = _predictor(name, FAMILIES[name], options, nms=None)
    found = predictor(source=photo, model=str(directory))[0]
    assert found.names == CLASS_NAMES
    assert YOLO(directory, task="detect").task == "detect"
    rows = found.boxes.data.numpy()
    theirs = Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))
    ours = again.detect(photo)
    shared = [
        box_overlap(box, ours.boxes_xyxy_px[ours.class_ids == class_id]).max(initial=0) > 0.5
        for box, class_id in zip(theirs.boxes_xyxy_px, theirs.class_ids, strict=True)
    ]
    assert np.mean(shared) > 0.5  # elsewhere its program may compute in bfloat16


def box_overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[4] and [n, 4] corners -> IoU [n]."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(0).prod(axis=1)
    return shared / (
        (box[2:] - box[:2]).prod()
        + np.diff(others.reshape(-1, 2, 2), axis=1)[:, 0].prod(axis=1)
        - shared
    )


def test_the_split_of_a_depthwise_block_preserves_its_function(
    graph: Callable[[str], DetectorGraph],
) -> None:
    found = graph("yolov10n")
    split = split_graph(found, WeightsConfig(split="cfws"))
    (found_split,) = split.splits
    assert found_split.fine == "neck.22.m.0.cv1.2.fused"
    kinds = {node.get_friendly_name(): node for node in split.model.get_ops()}
    for name, side in ((found_split.fine, 7), (found_split.coarse, 1)):
        assert kinds[name].get_type_name() == "GroupConvolution"
        assert list(kinds[name].input_value(1).get_shape())[1:] == [1, 1, side, side]
    images = np.random.default_rng(4).random((1, 3, *found.spec.size_hw), np.float32)
    before, after = (compile_exact(each.model)(images)[0] for each in (found, split.graph))
    np.testing.assert_allclose(after, before, rtol=0, atol=TOLERANCE)


def test_a_description_gives_the_same_random_network_each_time() -> None:
    first, second = (read_model(Path("yolov8n.yaml")) for _ in range(2))
    assert len(first.class_names) == 80
    assert first.size_hw == (640, 640)
    tensors = second.module.state_dict()
    for key, tensor in first.module.state_dict().items():
        assert torch.equal(tensor, tensors[key])


def test_a_description_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**_description(), "nc": 2}))
    stored = read_model(path)
    assert stored.class_names == ("class0", "class1")
    assert stored.architecture.strides == (8,)


def test_a_description_of_huge_maps_is_refused_before_it_is_built(tmp_path: Path) -> None:
    enlarging = [[-1, 1, "nn.Upsample", [None, 64, "nearest"]] for _ in range(2)]
    shrinking = [[-1, 1, "Conv", [16, 3, stride]] for stride in (64, 64, 8)]
    path = tmp_path / "huge.yaml"
    document = {"nc": 2, "backbone": enlarging + shrinking, "head": [[[4], 1, "Detect", ["nc"]]]}
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(CheckpointError, match="no detector does"):
        read_model(path)


def test_an_unknown_description_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"^yolov8q\.yaml: no such file, nor a model"):
        read_model(Path("yolov8q.yaml"))


def _description(**changes: Any) -> dict[str, Any]:
    layers = [[-1, 1, "Conv", [16, 3, 2]] for _ in range(3)]
    return {"nc": 3, "backbone": layers, "head": [[[2], 1, "Detect", ["nc"]]], **changes}


def _layer(*row: Any) -> dict[str, Any]:
    return _description(backbone=[list(row), *_description()["backbone"][1:]])


_COMMAND = "__import__('os').system('touch ran')"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (None, "no description"),
        (_description(backbone=[]), "no list of layers"),
        (_description(activation=_COMMAND), "activation"),
        (_description(activation="nn.ReLU() or " + _COMMAND), "activation"),
        (_layer(-1, 1, "torch", []), "layer 0 is a 'torch'"),
        (_layer(-1, 1, "nn.Module", []), "layer 0 is a 'nn.Module'"),
        (_layer(-1, 1, "torchvision.ops.Conv2dNormActivation", []), "layer 0 is a"),
        (_layer(-1, 1, "TorchVision", [16, "resnet18", "DEFAULT"]), "layer 0 is a 'TorchVision'"),
        (_layer(-1, 1, ["Conv"], []), "layer 0 is a"),
        (_layer(-1, 1, "Detect", [3]), "layer 0 is a 'Detect'"),
        (_layer(-1, 1, "Conv", [_COMMAND]), "argument 0"),
        (_layer(-1, 1, "Conv", ["d"]), "argument 0"),
        (_layer(-1, 1, "Conv", [[[16]]]), "argument 0"),
        (_layer(-1, 1, "Conv", [10**9]), "argument 0"),
        (_layer(-1, 1, "Conv", [float("nan")]), "argument 0"),
        (_layer(-1, 1, "nn.Upsample", [None, 4096, "nearest"]), "argument 1"),
        (_layer(-1, 10**6, "Conv", [16]), "repeats"),
        (_layer(1, 1, "Conv", [16]), "reads layer 1"),
        (_layer(-1, 1, "Conv"), "not [from"),
        (_description(head=[[[2], 1, "Segment", ["nc"]]]), "layer 3 is a 'Segment'"),
        (_description(nc=10**9), "nc is"),
        (_description(scales={"n": [1, 1, 64]}, scale="__class__"), "size '__class__'"),
        (_description(scales={"n": [99, 1, 64]}, scale="n"), "depth is"),
        (_description(reg_max=10**9), "reg_max"),
        (_description(backbone=[[-1, 1, "Conv", [8]]] * 300), "none is as deep"),
    ],
)
def test_a_hostile_description_is_refused(document: Any, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_config(document)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_width_of_a_feed_forward_network_is_no_count() -> None:
    """RT-DETR's decoder: classes, width, queries, points, heads, layers, width within a layer."""
    head = [[[0, 1, 2], 1, "RTDETRDecoder", ["nc", 128, 100, 4, 4, 3, 256]]]
    document = _description(head=head)
    assert read_config(document).layers[-1].arguments[1:] == (128, 100, 4, 4, 3, 256)
    head[0][3][4] = 256  # heads
    with pytest.raises(CheckpointError, match="argument 4 is 256"):
        read_config(document)


class _Command:
    def __deepcopy__(self, memo: object) -> _Command:
        return self

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda net: net.yaml.update(activation=_COMMAND), "activation"),
        (lambda net: net.yaml["backbone"][0].__setitem__(2, "nn.Module"), "layer 0 is a"),
        (lambda net: net.yaml["backbone"][0].__setitem__(3, [_COMMAND]), "argument 0"),
        (lambda net: net.yaml.update(scale="s"), "size 's'"),
        (lambda net: net.yaml.update(nc=4), "class names are no list of 4"),
        (lambda net: net.yaml["backbone"].pop(1), "layer 21 reads layer 21"),
        (lambda net: net.yaml["head"][-1].__setitem__(0, [0, 18, 21]), "tensor 22.cv2.0.0.conv"),
        (lambda net: setattr(net, "names", {0: "a", 1: "b", 7: "c"}), "class names"),
        (lambda net: setattr(net, "extra", _Command()), "refers to posix.system"),
        (lambda net: setattr(net, "forward", print), "refers to __builtin__.print"),
        (lambda net: net.model[0].conv.weight.data.fill_(torch.nan), "NaN"),
        (lambda net: net.model[-1].dfl.conv.weight.data.add_(1), "distances"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_hostile_checkpoint_is_refused(
    network: Callable[[str], Any],
    edit: Callable[[Any], Any],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = copy.deepcopy(network("yolov8n"))
    changed.yaml["scales"] = {"n": changed.yaml["scales"]["n"]}
    edit(changed)
    path = write_checkpoint(changed, tmp_path / "x.pt", 128)
    with pytest.raises(CheckpointError) as caught:
        read_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "\n" not in message
    assert not (tmp_path / "ran").exists()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics.nn", None)
    monkeypatch.setattr(
        ultralytics_package, "import_tasks", ultralytics_package.import_tasks.__wrapped__
    )
    with pytest.raises(CheckpointError, match="pip install --no-deps ultralytics"):
        read_model(Path("yolov8n.yaml"))


def test_conversion_to_safetensors_is_refused(
    network: Callable[[str], Any], tmp_path: Path
) -> None:
    """Its layers are the package's: a file of tensors could not say what they are."""
    checkpoint = write_checkpoint(network("yolov8n"), tmp_path / "x.pt", 128)
    with pytest.raises(ArtifactError, match=r"x\.safetensors: .* keep the checkpoint$"):
        convert(checkpoint, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_torchvision_is_never_imported(graph: Callable[[str], DetectorGraph]) -> None:
    graph("yolov8n")
    assert "torchvision" not in sys.modules


@pytest.mark.parametrize("end_to_end", [False, True])
def test_the_directory_keeps_how_predictions_are_read(
    end_to_end: bool, graph: Callable[[str], DetectorGraph], tmp_path: Path
) -> None:
    found = graph("rtdetr-resnet50" if end_to_end else "yolov8n")
    write_artifact(found, tmp_path / "m_openvino_model")
    spec = detq.load(tmp_path / "m_openvino_model").spec
    assert (spec.end_to_end, spec.fit) == (end_to_end, found.spec.fit)


def test_importing_ultralytics_changes_nothing_in_the_process() -> None:
    """Its ``Image.open`` tried to install a package when the demo was sent what is no picture."""
    code = """
import os, sys
import cv2, PIL.Image, torch
from detq.adapters.ultralytics_package import import_tasks

def state():
    named = {(m.__name__, n): v for m in (cv2, PIL.Image, torch) for n, v in vars(m).items()}
    return named, dict(os.environ), cv2.getNumThreads(), torch.get_num_threads(), sys.meta_path[:]

def same(first, second):
    named, others = first[0], second[0]
    return all(others[key] is named[key] for key in named) and first[1:] == second[1:]

before = state()
import_tasks()
assert "ultralytics" in sys.modules
assert same(before, state()), [k for k, v in before[0].items() if state()[0][k] is not v]
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
