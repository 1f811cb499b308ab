from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from openvino import opset15 as ops

from detq.data.letterbox import Preprocess
from detq.errors import DataError, DetqError, RuntimeTimeoutError
from detq.graph.detector_graph import INPUT, OUTPUT, DetectorGraph
from detq.records import ModelSpec
from detq.runtime.detector import CompiledGraph, Detector, Rect
from detq.runtime.options import RuntimeOptions
from detq.runtime.pipeline import detect_stream

Image = npt.NDArray[np.uint8]


def _image(left: int, height: int = 32) -> Image:
    """Left half of the colour (0 red, 1 green, 2 blue), right half black; uint8 [h, 2 h, 3]."""
    image = np.zeros((height, 2 * height, 3), np.uint8)
    image[:, :height, 2 - left] = 204
    return image


def _slow_graph() -> DetectorGraph:
    """Some 29 G multiply-accumulates: longer than a test's timeout on any machine."""
    image = ops.parameter([1, 3, 32, 32], ov.Type.f32, name=INPUT)
    flat = ops.reshape(image, np.array([1, 3072]), False)
    weights = np.full((3072, 3072), 1e-4, np.float32)
    wide = ops.multiply(ops.transpose(flat, [1, 0]), flat)  # [3072, 3072]
    product = ops.matmul(wide, weights, False, False)
    output = ops.reshape(ops.reduce_max(product, [0, 1], True), np.array([1, 1, 1]), False)
    model = ov.Model([ops.result(ops.concat([output] * 5, 1))], [image], "slow")
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    return DetectorGraph(model, ModelSpec("slow", "test", ("thing",), (32,), (32, 32)))


@pytest.mark.parametrize("colour", [0, 1, 2])
def test_colours_and_places_survive_the_whole_way(colour_graph: DetectorGraph, colour: int) -> None:
    """Red is class 0: channels in the wrong order would find blue."""
    found = Detector(colour_graph).detect(_image(colour, height=100))
    assert found.class_ids.tolist() == [colour]
    np.testing.assert_allclose(found.boxes_xyxy_px, [[0, 0, 100, 100]])
    np.testing.assert_allclose(found.scores, [0.8], atol=1e-4)


def test_slow_request_is_a_timeout() -> None:
    detector = Detector(_slow_graph(), options=RuntimeOptions(requests=1, timeout_s=0.005))
    with pytest.raises(RuntimeTimeoutError, match=r"slow: no result after 0\.005 s"):
        detector.detect(_image(0))


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)],
    ids=["grey", "float", "empty"],
)
def test_wrong_image_is_an_error(colour_graph: DetectorGraph, image: Image) -> None:
    with pytest.raises(DataError, match=r"expected an image of uint8 \[H, W, 3\]"):
        Detector(colour_graph).detect(image)


def test_preprocessing_of_another_size_is_an_error(colour_graph: DetectorGraph) -> None:
    with pytest.raises(DetqError, match="the preprocessing makes"):
        Detector(colour_graph, preprocess=Preprocess((64, 64)))


@pytest.mark.parametrize("option", ["threads", "requests", "streams", "timeout_s"])
def test_options_must_be_positive(option: str) -> None:
    with pytest.raises(DetqError, match=f"{option} must be positive, got 0"):
        RuntimeOptions(**{option: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        RuntimeOptions(threads=1),
        RuntimeOptions(requests=1),
        RuntimeOptions(streams=2),
        RuntimeOptions(pinning=False),
    ],
    ids=["threads", "requests", "streams", "pinning"],
)
def test_options_change_no_result(colour_graph: DetectorGraph, options: RuntimeOptions) -> None:
    found, usual = (
        Detector(colour_graph, options=each).detect(_image(1)) for each in (options, None)
    )
    np.testing.assert_array_equal(found.scores, usual.scores)


def test_compiled_model_is_kept_in_the_cache_directory(
    colour_graph: DetectorGraph, tmp_path: Path
) -> None:
    options = RuntimeOptions(cache_dir=tmp_path / "compiled")
    first = Detector(colour_graph, options=options).detect(_image(2))
    assert list((tmp_path / "compiled").iterdir())
    again = Detector(colour_graph, options=options).detect(_image(2))
    np.testing.assert_array_equal(first.scores, again.scores)


def test_float_model_executes_float(colour_graph: DetectorGraph) -> None:
    detector = Detector(colour_graph)
    assert detector.executed_precision == "fp32"
    assert detector.int8_share == 0
    assert [item.macs for item in detector.executed_convolutions] == [32 * 64 * 9]


def test_tuned_detector_has_thresholds_of_its_own(colour_graph: DetectorGraph) -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, :32, 2] = 128  # half as red as can be
    detector = Detector(colour_graph)
    strict = detector.tuned(confidence=0.6, iou=0.5)
    assert len(strict.detect(image)) == 0
    assert len(detector.detect(image)) == 1
    with pytest.raises(DetqError, match="confidence"):
        detector.tuned(confidence=1.5, iou=0.5)


@pytest.mark.parametrize("height", [100, 33])
def test_rect_compiles_for_each_shape_and_finds_the_same(
    bccd_graph: DetectorGraph, height: int
) -> None:
    square, rect = Detector(bccd_graph), Detector(bccd_graph, rect=Rect())
    image = np.random.default_rng(0).integers(0, 256, (height, 200, 3), np.uint8)
    placed = rect.place(image)
    assert placed.pixels.shape == (1, -(-height * 320 // 200 // 32) * 32, 320, 3)
    assert placed.network.spec.size_hw == placed.pixels.shape[1:3]
    assert rect.place(image).network is placed.network
    assert rect.tuned(confidence=0.5, iou=0.5).place(image).network is placed.network
    assert square.place(image).network is square
    assert rect.place(np.zeros((64, 64, 3), np.uint8)).network is rect
    assert rect.detect(image).boxes_xyxy_px.max(initial=0) <= 200


def test_rect_compiles_no_square_unless_one_comes(
    bccd_graph: DetectorGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[int, int]] = []
    compile_for = CompiledGraph.__init__.__globals__["compile_for"]

    def counted(device: str, model: ov.Model, properties: dict[str, str]) -> ov.CompiledModel:
        _, height, width, _ = model.inputs[0].shape
        compiled.append((height, width))
        return compile_for(device, model, properties)

    monkeypatch.setitem(CompiledGraph.__init__.__globals__, "compile_for", counted)
    detector = Detector(bccd_graph, rect=Rect())
    wide, square = (np.zeros((height, 320, 3), np.uint8) for height in (160, 320))
    assert len(list(detect_stream(detector, [wide] * 3))) == 3
    assert compiled == [(160, 320)]
    detector.detect(square)
    assert compiled == [(160, 320), (320, 320)]


def test_a_stream_may_change_its_shape(bccd_graph: DetectorGraph) -> None:
    detector = Detector(bccd_graph, rect=Rect())
    shapes = [(64, 96), (96, 64), (64, 96), (64, 64), (96, 64)] * 2
    images = [np.full((*shape, 3), 114, np.uint8) for shape in shapes]
    frames = list(detect_stream(detector, images))
    assert [frame.index for frame in frames] == list(range(len(shapes)))
    for frame, image in zip(frames, images, strict=True):
        alone = detector.detect(image)
        np.testing.assert_array_equal(frame.detections.boxes_xyxy_px, alone.boxes_xyxy_px)


def test_a_graph_that_is_bound_to_its_size_says_so(colour_graph: DetectorGraph) -> None:
    """Its decode is in numbers of the input's two halves. A wish leaves it its size."""
    with pytest.raises(DetqError, match="colours"):
        Detector(colour_graph, rect=Rect())
    assert not Detector(colour_graph, rect=Rect.of(None)).is_rect
