from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from scenes import MODEL, Known, jpeg, known_scene, write_clip
from serving import Served, end, start

import detq as package
from detq.api import load_recipe
from detq.artifact import write_artifact
from detq.data import digits
from detq.data.letterbox import Preprocess
from detq.quant.quantizer import quantize_graph


@pytest.fixture(scope="session")
def known() -> Known:
    return known_scene()


@pytest.fixture(scope="session")
def clip(known: Known, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video that shows the known scene for two seconds."""
    return write_clip(tmp_path_factory.mktemp("clip") / "digits.avi", [known.image] * 50)


@pytest.fixture(scope="session")
def camera_file(known: Known, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Chromium's fake camera shows: the known scene, as JPEG pictures one after another."""
    path = tmp_path_factory.mktemp("camera") / "digits.mjpeg"
    path.write_bytes(jpeg(known.image) * 30)
    return path


@pytest.fixture(scope="session")
def int8_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model in INT8, as an exported directory; its ranges are those of a few scenes."""
    graph = package.load(MODEL)
    material = digits.sources("val")
    preprocess = Preprocess(graph.spec.size_hw)
    scenes = [digits.make_scene(n, "val", material, seed=0, size_px=256).image for n in range(8)]
    samples = [preprocess.apply(scene)[0] for scene in scenes]
    recipe = load_recipe("minmax").model_copy(update={"bias_correction": "none"})
    int8 = quantize_graph(graph, recipe, lambda stage, count: iter(samples)).graph
    directory = tmp_path_factory.mktemp("int8") / "digits_int8_openvino_model"
    write_artifact(int8, directory)
    return directory


@pytest.fixture(scope="session")
def served(int8_model: Path, clip: Path) -> Iterator[Served]:
    """Both models on loopback, with a source of the server's own."""
    running = start(int8_model, "--compare", MODEL, "--source", clip)
    yield running
    end(running)


@pytest.fixture(scope="session")
def guarded() -> Iterator[Served]:
    """The float model on an address that asks for a token."""
    running = start(MODEL, "--host", "0.0.0.0")
    yield running
    end(running)
