from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import openvino as ov
import pytest
from small_networks import random_images, small_network
from torch import nn

from detq.models import fuse_branches, official

ACTIVATIONS = {
    "yolov6m": "Relu",
    "yolov6s_mbla": "Swish",
    "yolov6_lite_s": "HSwish",
}


@cache
def _fused(name: str) -> nn.Module:
    network = small_network(official(name, class_count=3))
    return fuse_branches(network, keep_names=True).module


@cache
def _converted(name: str) -> ov.Model:
    """Any warning would fail the test: pytest turns it into an error."""
    example = np.zeros((1, 3, 128, 64), np.float32)
    return ov.convert_model(_fused(name), example_input=example, input=[1, 3, 128, 64])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_traced_network_computes_the_same(name: str) -> None:
    images = random_images(128, 64)
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(_converted(name), "CPU", options)
    expected = _fused(name)(images).numpy()
    error = np.abs(compiled(images.numpy())[0] - expected) / np.maximum(np.abs(expected), 1)
    assert error.max() < 1e-3


@pytest.mark.parametrize(("name", "activation"), ACTIVATIONS.items())
def test_activations_become_single_operations(name: str, activation: str) -> None:
    types = Counter(operation.get_type_name() for operation in _converted(name).get_ops())
    assert types[activation] > 10


def test_the_grid_is_traced_as_constants_inside_the_decode() -> None:
    operations = _converted("yolov6m").get_ops()
    types = {operation.get_type_name(): operation.get_friendly_name() for operation in operations}
    assert not types.keys() & {"Range", "ShapeOf", "Broadcast"}
    assert "detect.decode" in types["Softmax"]
    assert "detect.decode" in types["Sigmoid"]
