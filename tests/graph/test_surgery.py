from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops

from detq.errors import GraphError
from detq.graph.surgery import (
    bypass,
    constant_value,
    consumers,
    downstream,
    find_node,
    nodes_of_type,
    producer,
    producers,
    replace_constant_input,
    upstream,
    with_outputs,
)
from detq.records import Part, part_of


def _diamond() -> ov.Model:
    """x -> first -> (left, right) -> joined: left doubles, right adds one."""
    x = ops.parameter([1, 4], ov.Type.f32, name="x")
    first = ops.relu(x)
    left = ops.multiply(first, np.float32(2))
    right = ops.add(first, np.float32(1))
    joined = ops.concat([left, right], 1)
    for name, node in {"first": first, "left": left, "right": right, "joined": joined}.items():
        node.set_friendly_name(name)
    return ov.Model([ops.result(joined)], [x], "diamond")


def _names(nodes: object) -> list[str]:
    return [node.get_friendly_name() for node in nodes]  # type: ignore[attr-defined]


def _run(model: ov.Model) -> list[np.ndarray]:
    values = np.array([[-1, 0, 1, 2]], np.float32)
    result = ov.Core().compile_model(model, "CPU")(values)
    return [result[index] for index in range(len(model.outputs))]


def test_nodes_of_a_type_come_in_the_order_of_execution() -> None:
    model = _diamond()
    found = _names(nodes_of_type(model, "Concat", "Relu", "Add"))
    assert found == ["first", "right", "joined"]
    assert nodes_of_type(model, "Convolution") == []


def test_node_is_found_by_name_or_the_error_names_it() -> None:
    assert find_node(_diamond(), "right").get_type_name() == "Add"
    with pytest.raises(GraphError, match="diamond: no operation is named 'up'"):
        find_node(_diamond(), "up")


def test_neighbours() -> None:
    model = _diamond()
    assert set(_names(consumers(find_node(model, "first")))) == {"left", "right"}
    assert _names(producers(find_node(model, "joined"))) == ["left", "right"]
    assert producer(find_node(model, "joined"), 1).get_friendly_name() == "right"


def test_walks_visit_every_node_once_nearest_first() -> None:
    model = _diamond()
    below = _names(downstream([find_node(model, "first")]))
    assert set(below[:2]) == {"left", "right"}
    assert below[2] == "joined"
    assert len(below) == 4  # and the Result
    above = _names(upstream([find_node(model, "joined")]))
    assert set(above[:2]) == {"left", "right"}
    assert above.count("first") == above.count("x") == 1
    assert list(upstream([find_node(model, "x")])) == []


def test_constant_is_read_through_what_only_dresses_it() -> None:
    values = np.arange(6, dtype=np.float16)
    constant = ops.convert(ops.constant(values), "f32")
    shaped = ops.reshape(constant, np.array([2, 3]), False)
    limits = [np.float32(value) for value in (-8, 8, -8, 8)]
    value = constant_value(ops.fake_quantize(shaped, *limits, 255))
    np.testing.assert_array_equal(value, values.reshape(2, 3))
    assert value.dtype == np.float16


def test_what_depends_on_an_input_is_no_constant() -> None:
    x = ops.parameter([6], ov.Type.f32)
    assert constant_value(ops.reshape(x, np.array([2, 3]), False)) is None
    assert constant_value(x) is None
    assert constant_value(ops.relu(ops.constant(np.float32(1)))) is None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("backbone.ERBlock_2.1.conv1", "backbone"),
        ("/backbone/stem/conv/Conv", "backbone"),
        ("neck.Rep_p4.block.0", "neck"),
        ("/neck/reduce_layer0/Conv", "neck"),
        ("detect.stems.0.conv", "head"),
        ("/detect/decode/Mul", "head"),
        ("head.pred", "head"),
        ("backbones.stem", None),
        ("necklace", None),
        ("Convolution_17", None),
        ("", None),
    ],
)
def test_part_is_the_first_step_of_the_module_path(name: str, part: Part | None) -> None:
    assert part_of(name) == part


def test_replaced_constant_is_used_and_keeps_its_name() -> None:
    model = _diamond()
    left = find_node(model, "left")
    name = producer(left, 1).get_friendly_name()
    replace_constant_input(left, 1, np.float32(10) * np.ones((1, 4), np.float32))
    assert producer(left, 1).get_friendly_name() == name
    np.testing.assert_array_equal(_run(model)[0][0, :4], [0, 0, 10, 20])


def test_bypassed_node_is_out_of_the_way() -> None:
    model = _diamond()
    bypass(find_node(model, "first"))
    np.testing.assert_array_equal(_run(model)[0], [[-2, 0, 2, 4, 0, 1, 2, 3]])
    assert nodes_of_type(model, "Relu") == []


def test_inner_tensors_can_be_outputs_in_any_order() -> None:
    model = _diamond()
    wanted = [find_node(model, name).output(0) for name in ("right", "first")]
    right, first = _run(with_outputs(model, wanted))
    np.testing.assert_array_equal(right, [[1, 1, 2, 3]])
    np.testing.assert_array_equal(first, [[0, 0, 1, 2]])
