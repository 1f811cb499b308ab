from __future__ import annotations

from collections import Counter

import numpy as np
import openvino as ov
import pytest
import torch
from small_networks import random_images, small_network

from detq.models import fuse, official

NAMES = ("yolov6n", "yolov6l", "yolov6s_mbla", "yolov6m6", "yolov6_lite_s")


def _convert(network: torch.nn.Module) -> ov.Model:
    """Any warning would fail the test: pytest turns it into an error."""
    example = np.zeros((1, 3, 128, 64), np.float32)
    return ov.convert_model(network, example_input=example, input=[1, 3, 128, 64])


@pytest.mark.parametrize("name", NAMES)
def test_a_traced_network_computes_the_same(name: str) -> None:
    network = fuse(small_network(official(name, class_count=3))).module
    model = _convert(network)
    images = random_images(128, 64)
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = network(images).numpy()
    error = np.abs(compiled(images.numpy())[0] - expected) / np.maximum(np.abs(expected), 1)
    assert error.max() < 1e-3


@pytest.mark.parametrize(
    ("name", "activation"),
    [("yolov6n", "Relu"), ("yolov6l", "Swish"), ("yolov6_lite_s", "HSwish")],
)
def test_activations_become_single_operations(name: str, activation: str) -> None:
    model = _convert(fuse(small_network(official(name, class_count=3))).module)
    assert Counter(op.get_type_name() for op in model.get_ops())[activation] > 10


def test_the_grid_is_traced_as_constants_inside_the_decode() -> None:
    model = _convert(fuse(small_network(official("yolov6m", class_count=3))).module)
    types = {op.get_type_name(): op.get_friendly_name() for op in model.get_ops()}
    assert not types.keys() & {"Range", "ShapeOf", "Broadcast"}
    assert "detect.decode" in types["Softmax"]
    assert "detect.decode" in types["Sigmoid"]
