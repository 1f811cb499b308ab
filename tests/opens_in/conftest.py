"""The embedded model in float and in INT8, as other programs get it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import detq
from detq.api.sources import load_recipe
from detq.data import digits
from detq.data.letterbox import Preprocess
from detq.graph.detector_graph import DetectorGraph
from detq.opencv import cv2
from detq.quant.quantizer import quantize_graph

SIDE = 160


@pytest.fixture(scope="session")
def scenes() -> list[detq.ImageBGR]:
    """Digits in pictures of 256x256."""
    material = digits.sources("val")
    return [
        digits.make_scene(number, "val", material, seed=0, size_px=256).image for number in range(4)
    ]


@pytest.fixture(scope="session")
def float_graph() -> DetectorGraph:
    return detq.load("digits_yolov6n", imgsz=SIDE)


@pytest.fixture(scope="session")
def int8_graph(float_graph: DetectorGraph, scenes: list[detq.ImageBGR]) -> DetectorGraph:
    """Its ranges are those of a few scenes."""
    preprocess = Preprocess(float_graph.spec.size_hw)
    samples = [preprocess.apply(scene)[0] for scene in scenes]
    recipe = load_recipe("minmax").model_copy(update={"bias_correction": "none"})
    return quantize_graph(float_graph, recipe, lambda stage, count: iter(samples)).graph


@pytest.fixture(scope="session")
def pictures(scenes: list[detq.ImageBGR], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of other sizes than the network's: enlarged, shrunk by odd factors, high and wide ones, and
    sides where float64 makes the image a pixel narrower than the input.
    """
    folder = tmp_path_factory.mktemp("pictures")
    written = []
    sizes = [(160, 160), (256, 256), (320, 320), (67, 67), (201, 268), (333, 217), (100, 640)]
    for number, (height, width) in enumerate(sizes):
        size = (width, height)
        image = cv2.resize(scenes[number % len(scenes)], size, interpolation=cv2.INTER_AREA)
        path = folder / f"{height}x{width}.png"
        cv2.imwrite(str(path), np.asarray(image))
        written.append(path)
    return written
