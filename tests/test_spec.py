"""What travels with a model comes back whole from every file that detq keeps it in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import openvino as ov
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from openvino import opset15 as ops

from detq.artifact import read_artifact, write_artifact
from detq.contract import CONTRACTS, INPUT, Task
from detq.errors import CheckpointError, DetqError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.foreign import from_onnx
from detq.onnx_export import write_onnx
from detq.records import Fit, ModelSpec, Part, ReparamConvolution

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": TEXT,
    "family": TEXT,
    "class_names": st.lists(TEXT, min_size=1, max_size=4).map(tuple),
    "strides": st.just((4, 8, 32)),
    "size_hw": st.tuples(*[st.integers(1, 60).map(lambda cells: 32 * cells)] * 2),
    "reparameterized": st.lists(
        st.builds(ReparamConvolution, TEXT, st.sampled_from(get_args(Part))),
        unique_by=lambda convolution: convolution.name,
        max_size=3,
    ).map(tuple),
    "task": st.sampled_from(get_args(Task)),
    "end_to_end": st.booleans(),
    "fit": st.sampled_from(get_args(Fit)),
}
FORMS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda document: document,
    "JSON": lambda document: json.loads(json.dumps(document)),
    "YAML": lambda document: yaml.safe_load(yaml.safe_dump(document, sort_keys=False)),
}
CONVOLUTION = ReparamConvolution("backbone.convolution", "backbone")
DETECTOR = ModelSpec(
    name="detector",
    family="ultralytics",
    class_names=("czerwony ł", "緑: [x]", "no"),
    strides=(8, 32),
    size_hw=(32, 64),
    reparameterized=(CONVOLUTION,),
    end_to_end=True,
    fit="stretch",
)
CLASSIFIER = replace(DETECTOR, name="classifier", task="classify", end_to_end=False)


def graph_of(spec: ModelSpec) -> DetectorGraph:
    """Some network that obeys the contract of the spec's task."""
    count, size = spec.class_count, np.array(spec.size_hw)
    image = ops.parameter([1, 3, *spec.size_hw], ov.Type.f32, name=INPUT)
    weights = np.random.default_rng(0).normal(size=(4 + count, 3, 1, 1)).astype(np.float32)
    maps = ops.convolution(image, ops.constant(weights), [1, 1], [0, 0], [0, 0], [1, 1])
    maps.set_friendly_name(CONVOLUTION.name)
    rows = ops.reshape(ops.sigmoid(maps), np.array([1, 4 + count, int(size.prod())]), False)
    if not spec.contract.has_places:
        means = ops.reduce_mean(rows, np.array([2]), False)
        rows = ops.softmax(ops.slice(means, [4], [4 + count], [1], [1]), 1)
    model = ov.Model([ops.result(rows)], [image], spec.name)
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({spec.contract.output})
    return DetectorGraph(model, spec)


def through_directory(graph: DetectorGraph, folder: Path) -> DetectorGraph:
    write_artifact(graph, folder / "model")
    return read_artifact(folder / "model")


def through_onnx(graph: DetectorGraph, folder: Path) -> DetectorGraph:
    path = folder / f"{graph.spec.name}.onnx"
    write_onnx(graph, path)
    return from_onnx(path)


def test_every_field_is_tried() -> None:
    """A new field needs values here, and one that is not its default in a file."""
    assert list(VALUES) == [field.name for field in fields(ModelSpec)]
    for field in fields(ModelSpec):
        if field.default is not MISSING:
            given_ = [getattr(spec, field.name) for spec in (DETECTOR, CLASSIFIER)]
            assert any(value != field.default for value in given_), field.name


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@given(values=st.fixed_dictionaries(VALUES))
def test_what_is_written_is_what_is_read(
    form: Callable[[Any], Any], values: dict[str, Any]
) -> None:
    spec = ModelSpec(**values)
    document = spec.to_dict()
    assert list(document) == list(VALUES)
    assert ModelSpec.from_dict(form({**document, "other": [1]})) == spec


@pytest.mark.parametrize("through", [through_directory, through_onnx])
@pytest.mark.parametrize("spec", [DETECTOR, CLASSIFIER], ids=lambda spec: spec.name)
def test_every_file_keeps_every_field_and_the_function(
    tmp_path: Path, spec: ModelSpec, through: Callable[[DetectorGraph, Path], DetectorGraph]
) -> None:
    graph = graph_of(spec)
    again = through(graph, tmp_path)
    assert again.spec == spec
    image = np.random.default_rng(1).random((1, 3, *spec.size_hw), np.float32)
    found, expected = (ov.compile_model(each.model, "CPU")(image)[0] for each in (again, graph))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", [DETECTOR, CLASSIFIER], ids=lambda spec: spec.name)
def test_onnx_file_has_the_keys_of_ultralytics(tmp_path: Path, spec: ModelSpec) -> None:
    write_onnx(graph_of(spec), tmp_path / "x.onnx")
    entries = onnx.load(tmp_path / "x.onnx").metadata_props
    metadata = {entry.key: entry.value for entry in entries}
    assert (metadata["task"], metadata["stride"]) == (spec.task, "32")
    assert metadata["imgsz"] == "[32, 64]"
    assert metadata["names"] == str(dict(enumerate(spec.class_names)))


def test_class_names_that_a_person_changed_count(tmp_path: Path) -> None:
    write_onnx(graph_of(DETECTOR), tmp_path / "x.onnx")
    proto = onnx.load(tmp_path / "x.onnx")
    names = next(entry for entry in proto.metadata_props if entry.key == "names")
    names.value = "{0: 'a', 1: 'b', 2: 'c'}"
    onnx.save(proto, tmp_path / "x.onnx")
    assert from_onnx(tmp_path / "x.onnx").spec.class_names == ("a", "b", "c")


def test_onnx_file_that_another_program_changed_is_not_taken_at_its_word(tmp_path: Path) -> None:
    """Its output has got another name: what it means is found out, or said to be unknown."""
    write_onnx(graph_of(DETECTOR), tmp_path / "x.onnx")
    proto = onnx.load(tmp_path / "x.onnx")
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = "boxes"
    onnx.save(proto, tmp_path / "x.onnx")
    with pytest.raises(CheckpointError, match="are of no known layout"):
        from_onnx(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("class_names", None, "class_names: Field required"),
        ("class_names", [1], r"class_names\.0: "),
        ("size_hw", [64], "size_hw"),
        ("strides", "many", "strides"),
        ("reparameterized", {"x": "tail"}, r"reparameterized\.0\.part"),
        ("reparameterized", ["x"], "reparameterized"),
        ("task", "segment", "task: Input should be 'detect'"),
        ("fit", "none", "fit: Input should be 'yolov6'"),
        ("end_to_end", "perhaps", "end_to_end"),
    ],
)
def test_malformed_document_is_one_error(key: str, value: object, words: str) -> None:
    document = {**DETECTOR.to_dict(), key: value}
    if value is None:
        del document[key]
    with pytest.raises(CheckpointError, match=rf"key missing or malformed \({words}"):
        ModelSpec.from_dict(document)


def test_unknown_task_is_an_error() -> None:
    with pytest.raises(DetqError, match="task 'segment': expected one of detect, classify"):
        replace(DETECTOR, task="segment")  # type: ignore[arg-type]
    assert get_args(Task) == tuple(CONTRACTS)


def test_values_that_contradict_each_other_are_an_error() -> None:
    with pytest.raises(DetqError, match="multiples of the largest stride 32"):
        ModelSpec.from_dict({**DETECTOR.to_dict(), "size_hw": [32, 65]})
