from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from detq.errors import DataError, RuntimeTimeoutError
from detq.graph.detector_graph import DetectorGraph
from detq.runtime.detector import Detector
from detq.runtime.options import RuntimeOptions
from detq.runtime.pipeline import AHEAD, detect_stream

Image = npt.NDArray[np.uint8]


def _image(left: int, height: int = 32) -> Image:
    """Left half of the colour (0 red, 1 green, 2 blue), right half black; uint8 [h, 2 h, 3]."""
    image = np.zeros((height, 2 * height, 3), np.uint8)
    image[:, :height, 2 - left] = 204
    return image


@pytest.fixture
def detector(colour_graph: DetectorGraph) -> Detector:
    return Detector(colour_graph, options=RuntimeOptions(requests=2))


@pytest.mark.parametrize("requests", [None, 1, 3])
def test_order_is_kept_whatever_is_in_flight(
    colour_graph: DetectorGraph, requests: int | None
) -> None:
    detector = Detector(colour_graph, options=RuntimeOptions(requests=requests))
    colours = np.random.default_rng(0).integers(0, 3, 50).tolist()
    images = [_image(colour, height=16 + 16 * colour) for colour in colours]
    frames = list(detect_stream(detector, images))
    assert [frame.detections.class_ids[0] for frame in frames] == colours
    assert [frame.index for frame in frames] == list(range(50))
    assert all(frame.image is image for frame, image in zip(frames, images, strict=True))


def test_stream_finds_what_single_images_give(detector: Detector) -> None:
    generator = np.random.default_rng(1)
    images = [generator.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(20)]
    for frame in detect_stream(detector, images):
        alone = detector.detect(frame.image)
        np.testing.assert_array_equal(frame.detections.boxes_xyxy_px, alone.boxes_xyxy_px)
        np.testing.assert_array_equal(frame.detections.scores, alone.scores)


def test_source_is_read_no_further_than_the_queues_are_long(detector: Detector) -> None:
    drawn = 0

    def images() -> Iterator[Image]:
        nonlocal drawn
        while True:
            drawn += 1
            yield _image(0)

    frames = detect_stream(detector, images())
    for _ in range(5):
        next(frames)
    time.sleep(0.1)  # the reading thread goes as far as it may
    in_flight, in_hand = detector.requests + 1, 1
    assert drawn <= 5 + in_flight + AHEAD + in_hand
    frames.close()
    assert len(detector.detect(_image(1))) == 1


def test_no_images_are_no_frames(detector: Detector) -> None:
    assert list(detect_stream(detector, [])) == []


def test_failing_source_fails_in_its_turn(detector: Detector) -> None:
    def images() -> Iterator[Image]:
        yield from [_image(0)] * 3
        raise DataError("b.png: cannot be decoded")

    frames = detect_stream(detector, images())
    assert [next(frames).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match=r"b\.png"):
        next(frames)


def test_array_that_is_no_image_is_an_error(detector: Detector) -> None:
    with pytest.raises(DataError, match=r"expected an image of uint8 \[H, W, 3\]"):
        list(detect_stream(detector, [np.zeros((4, 4), np.uint8)]))


def test_result_does_not_wait_for_the_next_image(detector: Detector) -> None:
    """A camera's next frame may be long in coming; what is in flight comes out before."""
    shown = threading.Event()

    def images() -> Iterator[Image]:
        yield _image(0)
        assert shown.wait(30)
        yield _image(1)

    frames = detect_stream(detector, images())
    assert next(frames).detections.class_ids[0] == 0
    shown.set()
    assert next(frames).detections.class_ids[0] == 1


def test_only_the_newest_image_waits(detector: Detector) -> None:
    """While the caller is busy with one frame, a live source goes on without it."""
    resumed, far = threading.Event(), threading.Event()

    def images() -> Iterator[Image]:
        for index in range(100):
            if index == 1:
                assert resumed.wait(30)
            if index == 99:
                far.set()
            yield _image(index % 3)

    frames = detect_stream(detector, images(), newest_only=True)
    first = next(frames)
    resumed.set()
    assert far.wait(30)  # although nobody takes a frame
    rest = list(frames)
    assert first.index == 0
    assert rest[-1].index == 99
    assert len(rest) <= detector.requests + 3
    for frame in rest:
        assert frame.detections.class_ids[0] == frame.index % 3


def test_lossless_stream_drops_nothing_while_its_caller_is_slow(detector: Detector) -> None:
    frames = detect_stream(detector, [_image(0)] * 12)
    first = next(frames)
    time.sleep(0.1)
    assert [first.index, *(frame.index for frame in frames)] == list(range(12))


def test_silent_source_is_an_error_when_patience_ends(detector: Detector) -> None:
    never = threading.Event()

    def images() -> Iterator[Image]:
        never.wait(300)
        yield _image(0)

    frames = detect_stream(detector, images(), patience_s=0.05)
    with pytest.raises(RuntimeTimeoutError, match=r"no image for 0\.05 s"):
        next(frames)
    never.set()


@pytest.mark.parametrize("taken", [1, 4])
def test_source_is_closed_when_the_caller_stops(detector: Detector, taken: int) -> None:
    closed = threading.Event()

    def images() -> Iterator[Image]:
        try:
            while True:
                yield _image(0)
        finally:
            closed.set()

    frames = detect_stream(detector, images())
    for _ in range(taken):
        next(frames)
    frames.close()
    assert closed.is_set()


def test_stages_are_timed(detector: Detector) -> None:
    for frame in detect_stream(detector, [_image(0)] * 3):
        stages = (frame.read_ms, frame.place_ms, frame.infer_ms, frame.post_ms)
        assert min(stages) >= 0
        assert frame.age_ms >= frame.place_ms + frame.post_ms
