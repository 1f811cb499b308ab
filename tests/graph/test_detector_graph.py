from __future__ import annotations

from dataclasses import replace

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops

from detq.errors import GraphError
from detq.graph.detector_graph import INPUT, OUTPUT, DetectorGraph
from detq.records import ModelSpec

SPEC = ModelSpec("small", "test", ("a", "b"), strides=(32,), size_hw=(32, 64))


def _model(
    *,
    shape: tuple[int, ...] = (1, 3, 32, 64),
    columns: int = 6,
    dtype: ov.Type = ov.Type.f32,
    names: tuple[str, str] = (INPUT, OUTPUT),
    outputs: int = 1,
) -> ov.Model:
    image = ops.parameter(list(shape), dtype)
    mean = ops.reduce_mean(image, np.arange(1, len(shape)), False)
    output = ops.concat([ops.unsqueeze(ops.unsqueeze(mean, 1), 2)] * columns, 1)
    model = ov.Model([ops.result(output) for _ in range(outputs)], [image], "small")
    model.inputs[0].get_tensor().set_names({names[0]})
    model.outputs[0].get_tensor().set_names({names[1]})
    return model


def test_contract_holds_for_any_number_of_predictions(colour_graph: DetectorGraph) -> None:
    assert DetectorGraph(_model(), SPEC).spec is SPEC
    assert colour_graph.model.outputs[0].get_shape() == [1, 7, 2]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_model(names=("image", OUTPUT)), r"one input named 'images', found \[\['image'\]\]"),
        (_model(names=(INPUT, "out")), "one output named 'predictions'"),
        (_model(outputs=2), "expected one output"),
        (_model(shape=(1, 3, 64, 32)), r"'images' has shape \[1, 3, 64, 32\]"),
        (_model(shape=(2, 3, 32, 64)), r"expected it to begin with \[1, 3, 32, 64\]"),
        (_model(shape=(1, 1, 32, 64)), r"'images' has shape \[1, 1, 32, 64\]"),
        (_model(columns=7), r"expected it to begin with \[1, 6\] for 2 classes"),
        (_model(shape=(1, 3, -1, 64)), "dynamic shape; pass --imgsz"),
        (_model(dtype=ov.Type.f16), "is <Type: 'float16'>, expected f32"),
    ],
    ids=[
        "input name",
        "output name",
        "two outputs",
        "sides swapped",
        "batch",
        "grey",
        "another number of classes",
        "dynamic",
        "half precision",
    ],
)
def test_broken_contract_is_an_error_that_says_what(model: ov.Model, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        DetectorGraph(model, SPEC)


def test_graph_is_a_frozen_value() -> None:
    graph = DetectorGraph(_model(), SPEC)
    with pytest.raises(AttributeError):
        graph.spec = replace(SPEC, name="other")  # type: ignore[misc]
