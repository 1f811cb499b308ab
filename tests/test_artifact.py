from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import yaml

import detq.files
from detq.artifact import check_writable, read_artifact, read_details
from detq.artifact import write_artifact as write
from detq.errors import ArtifactError, CheckpointError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.saving import check_creatable
from detq.records import Fit, ModelSpec, ReparamConvolution
from detq.runtime.detector import Detector


@pytest.fixture
def graph(colour_graph: DetectorGraph) -> DetectorGraph:
    """The detector of coloured halves with a spec in which no field has its default."""
    spec = ModelSpec(
        name="yolov6n",
        family="yolov6",
        class_names=("czerwony ł", "緑: [x]", "no"),
        strides=(8, 16, 32),
        size_hw=(32, 64),
        reparameterized=(
            ReparamConvolution("backbone.stem", "backbone"),
            ReparamConvolution("neck.Rep_p4.conv1", "neck"),
        ),
    )
    return DetectorGraph(colour_graph.model, spec)


def _content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _metadata(directory: Path) -> dict[str, Any]:
    document = yaml.safe_load((directory / "metadata.yaml").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("end", ["", "yolov6n.xml"])
def test_what_is_written_is_what_is_read(tmp_path: Path, graph: DetectorGraph, end: str) -> None:
    write(graph, tmp_path / "model")
    restored = read_artifact(tmp_path / "model" / end)
    assert restored.spec == graph.spec
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    found, expected = (Detector(each).detect(image) for each in (restored, graph))
    np.testing.assert_array_equal(found.boxes_xyxy_px, expected.boxes_xyxy_px)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)


@pytest.mark.parametrize("fit", ["corner", "stretch-cubic"])
def test_fit_is_kept(tmp_path: Path, graph: DetectorGraph, fit: Fit) -> None:
    moved = DetectorGraph(graph.model, replace(graph.spec, fit=fit))
    write(moved, tmp_path / "model")
    assert read_artifact(tmp_path / "model").spec == moved.spec


@pytest.mark.parametrize("fit", ["corner", None])
def test_directory_of_an_earlier_version_is_read(
    tmp_path: Path, graph: DetectorGraph, fit: Fit | None
) -> None:
    """It kept the fit with the other preprocessing, and before that there was only one."""
    moved = DetectorGraph(graph.model, replace(graph.spec, fit=fit or "yolov6"))
    write(moved, tmp_path / "model")
    metadata = _metadata(tmp_path / "model")
    known = ("schema", "family", "strides", "reparameterized", "preprocess", "versions")
    metadata["detq"] = {key: metadata["detq"][key] for key in known}
    if fit is None:
        del metadata["detq"]["preprocess"]["fit"]
    (tmp_path / "model/metadata.yaml").write_text(yaml.safe_dump(metadata), encoding="utf-8")
    assert read_artifact(tmp_path / "model").spec == moved.spec


def test_what_a_person_changed_in_the_keys_of_ultralytics_counts(
    tmp_path: Path, graph: DetectorGraph
) -> None:
    write(graph, tmp_path / "model")
    metadata = _metadata(tmp_path / "model")
    metadata["names"] = {0: "a", 1: "b", 2: "c"}
    (tmp_path / "model/metadata.yaml").write_text(yaml.safe_dump(metadata))
    assert read_artifact(tmp_path / "model").spec.class_names == ("a", "b", "c")


def test_float_weights_are_kept_to_the_bit(tmp_path: Path, graph: DetectorGraph) -> None:
    """OpenVINO stores float16 unless told otherwise."""
    write(graph, tmp_path / "model")
    types = {
        str(node.get_element_type())
        for node in read_artifact(tmp_path / "model").model.get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type().is_real()
    }
    assert types == {"<Type: 'float32'>"}


def test_metadata_has_the_keys_of_ultralytics(tmp_path: Path, graph: DetectorGraph) -> None:
    write(graph, tmp_path / "model")
    metadata = _metadata(tmp_path / "model")
    assert {key: metadata[key] for key in ("task", "stride", "imgsz", "batch", "names")} == {
        "task": "detect",
        "stride": 32,
        "imgsz": [32, 64],
        "batch": 1,
        "names": {0: "czerwony ł", 1: "緑: [x]", 2: "no"},
    }
    details = read_details(tmp_path / "model")
    assert details == metadata["detq"] == read_details(tmp_path / "model/yolov6n.xml")
    assert details["strides"] == [8, 16, 32]
    assert details["versions"]["openvino"] == version("openvino")


def test_details_and_report_are_added(tmp_path: Path, graph: DetectorGraph) -> None:
    write(graph, tmp_path / "model", details={"measured": {"map": None}}, report="<p>é</p>")
    details = read_details(tmp_path / "model")
    assert details["measured"] == {"map": None}
    assert details["family"] == "yolov6"
    assert (tmp_path / "model/report.html").read_text(encoding="utf-8") == "<p>é</p>"


def test_directory_of_ultralytics_is_read(tmp_path: Path, graph: DetectorGraph) -> None:
    write(graph, tmp_path / "model")
    metadata = _metadata(tmp_path / "model")
    del metadata["detq"]
    (tmp_path / "model/metadata.yaml").write_text(yaml.safe_dump(metadata))
    spec = read_artifact(tmp_path / "model").spec
    assert (spec.class_names, spec.family) == (graph.spec.class_names, "ultralytics")
    assert (spec.strides, spec.size_hw, spec.reparameterized) == ((32,), (32, 64), ())
    assert read_details(tmp_path / "model") == {}


@pytest.mark.parametrize("end", ["", "yolov6n.xml"])
@pytest.mark.parametrize("missing", ["yolov6n.xml", "yolov6n.bin", "metadata.yaml"])
def test_missing_file_is_named(
    tmp_path: Path, graph: DetectorGraph, missing: str, end: str
) -> None:
    write(graph, tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(CheckpointError, match=rf"\{missing[missing.index('.') :]}"):
        read_artifact(tmp_path / "model" / end)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("names", None),
        ("names", {1: "a", 2: "b", 3: "c"}),
        ("imgsz", 640),
        ("imgsz", ["a", "b"]),
        ("stride", "many"),
        ("detq", ["family"]),
        ("detq", {"reparameterized": {"a": "tail"}}),
        ("detq", {"preprocess": "none"}),
        ("task", "segment"),
    ],
)
def test_malformed_metadata_is_an_error(
    tmp_path: Path, graph: DetectorGraph, key: str, value: object
) -> None:
    write(graph, tmp_path / "model")
    metadata = _metadata(tmp_path / "model")
    del metadata["detq"]
    path = tmp_path / "model/metadata.yaml"
    path.write_text(yaml.safe_dump({**metadata, key: value}))
    with pytest.raises(CheckpointError, match=r"metadata\.yaml.*export the model again"):
        read_artifact(tmp_path / "model")


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "\x00", ""])
def test_metadata_that_is_no_mapping_is_an_error(
    tmp_path: Path, graph: DetectorGraph, text: str
) -> None:
    write(graph, tmp_path / "model")
    (tmp_path / "model/metadata.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"metadata\.yaml.*export the model again"):
        read_artifact(tmp_path / "model")


def test_damaged_ir_is_an_error(tmp_path: Path, graph: DetectorGraph) -> None:
    write(graph, tmp_path / "model")
    (tmp_path / "model/yolov6n.xml").write_text("<net")
    with pytest.raises(CheckpointError, match="not a readable OpenVINO IR") as caught:
        read_artifact(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_two_models_in_one_directory_are_an_error(tmp_path: Path, graph: DetectorGraph) -> None:
    write(graph, tmp_path / "model")
    shutil.copy(tmp_path / "model/yolov6n.xml", tmp_path / "model/other.xml")
    with pytest.raises(CheckpointError, match=r"expected one \.xml, found 2"):
        read_artifact(tmp_path / "model")


# Writing


@pytest.fixture(params=["one step", "two renames"])
def replacing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to replace a directory: the second is for file systems without an exchange."""
    if request.param == "two renames":
        monkeypatch.setattr(detq.files, "_exchange", lambda first, second: False)
    return str(request.param)


@pytest.mark.usefixtures("replacing")
def test_old_directory_is_replaced_whole(tmp_path: Path, graph: DetectorGraph) -> None:
    write(graph, tmp_path / "model", report="old")
    renamed = DetectorGraph(graph.model, ModelSpec("new", "test", ("a", "b", "c"), (32,), (32, 64)))
    write(renamed, tmp_path / "model")
    assert sorted(_content(tmp_path / "model")) == ["metadata.yaml", "new.bin", "new.xml"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.usefixtures("replacing")
@pytest.mark.parametrize("error", [RuntimeError("disk\nfull"), OSError(28, "No space left")])
def test_failed_write_leaves_the_old_directory(
    tmp_path: Path, graph: DetectorGraph, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def save_half(model: ov.Model, path: Path, **_: object) -> None:
        path.write_text("<net")
        raise error

    write(graph, tmp_path / "model")
    before = _content(tmp_path / "model")
    monkeypatch.setattr(ov, "save_model", save_half)
    with pytest.raises(ArtifactError, match="model: cannot be written") as caught:
        write(graph, tmp_path / "model")
    assert "\n" not in str(caught.value)
    with pytest.raises(ArtifactError):
        write(graph, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert _content(tmp_path / "model") == before


def test_interrupted_write_leaves_the_old_directory(
    tmp_path: Path, graph: DetectorGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(model: ov.Model, path: Path, **_: object) -> None:
        raise KeyboardInterrupt

    write(graph, tmp_path / "model")
    before = _content(tmp_path / "model")
    monkeypatch.setattr(ov, "save_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(graph, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert _content(tmp_path / "model") == before


def test_missing_folders_are_made_with_the_directory_and_not_before(
    tmp_path: Path, graph: DetectorGraph
) -> None:
    check_writable(tmp_path / "a b/ü/model")
    check_creatable(tmp_path / "a b/x.json")
    assert not list(tmp_path.iterdir())
    write(graph, tmp_path / "a b/ü/model")
    assert read_artifact(tmp_path / "a b/ü/model").spec == graph.spec


def test_relative_directory(
    tmp_path: Path, graph: DetectorGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for _ in range(2):
        write(graph, Path("../model"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "model"]


def test_others_may_read_it(tmp_path: Path, graph: DetectorGraph) -> None:
    """A temporary directory begins as its owner's alone."""
    write(graph, tmp_path / "model")
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755


@pytest.mark.usefixtures("replacing")
def test_link_to_a_directory_is_followed(tmp_path: Path, graph: DetectorGraph) -> None:
    write(graph, tmp_path / "v1")
    (tmp_path / "latest").symlink_to("v1")
    write(graph, tmp_path / "latest", report="new")
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "v1/report.html").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "v1"]


@pytest.mark.parametrize("file", ["photo.jpg", "metadata.yaml", "model.xml"])
def test_foreign_directory_is_not_touched(tmp_path: Path, graph: DetectorGraph, file: str) -> None:
    """A metadata.yaml alone, as a folder of photographs may have it, is no exported model."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / file).write_text("mine")
    for attempt in (check_writable, lambda directory: write(graph, directory)):
        with pytest.raises(ArtifactError, match="exists and is not an exported model"):
            attempt(tmp_path / "mine")
    assert _content(tmp_path / "mine") == {file: b"mine"}


def test_empty_directory_is_filled(tmp_path: Path, graph: DetectorGraph) -> None:
    (tmp_path / "model").mkdir()
    write(graph, tmp_path / "model")
    assert read_artifact(tmp_path / "model").spec == graph.spec


def test_file_in_the_way_is_an_error(tmp_path: Path, graph: DetectorGraph) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="exists and is not an exported model"):
        write(graph, tmp_path / "file")
    with pytest.raises(ArtifactError, match=r"cannot be written \(Not a directory\)"):
        write(graph, tmp_path / "file/model")
