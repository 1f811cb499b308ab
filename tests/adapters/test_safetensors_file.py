"""detq's own model files: nothing is lost on the way, and a wrong file is named as such."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_networks import randomize, shrink

from detq.adapters import (
    StoredModel,
    convert,
    fuse_model,
    load_checkpoint,
    read_model,
    write_safetensors,
)
from detq.errors import ArtifactError, CheckpointError
from detq.models import OFFICIAL_NAMES, build, official
from detq.records import ModelSpec


def _model(name: str = "yolov6n", *, classes: int = 3) -> StoredModel:
    architecture = shrink(official(name, class_count=classes))
    network = randomize(build(architecture)).requires_grad_(False)
    names = tuple(f"thing {index}" for index in range(classes))
    return StoredModel(network, architecture, names, (128, 192))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    write_safetensors(_model(), path)
    return path


@pytest.mark.parametrize("name", OFFICIAL_NAMES)
def test_round_trip_of_every_family_is_exact(name: str, tmp_path: Path) -> None:
    model = _model(name)
    path = tmp_path / "model.safetensors"
    write_safetensors(model, path)
    read = read_model(path)
    assert replace(read, module=model.module) == model
    expected = model.module.state_dict()
    actual = read.module.state_dict()
    assert list(actual) == list(expected)
    for key, tensor in expected.items():
        assert torch.equal(actual[key], tensor) or key.endswith("num_batches_tracked"), key
    assert not read.module.training


@pytest.mark.parametrize("name", ["yolov6n", "yolov6s_nc3"])
def test_converted_checkpoint_predicts_the_same(name: str, shared: Path, tmp_path: Path) -> None:
    source, target = shared / f"goldens/yolov6/{name}.pt", tmp_path / f"{name}.safetensors"
    convert(source, target)
    image = torch.rand(1, 3, 128, 128)
    one, other = (fuse_model(load_checkpoint(path)) for path in (source, target))
    assert one.spec == other.spec
    assert torch.equal(one.module(image), other.module(image))
    assert target.stat().st_size < 1.05 * source.stat().st_size


def test_size_of_the_file_is_the_default_size(written: Path) -> None:
    assert load_checkpoint(written).spec.size_hw == (128, 192)
    assert load_checkpoint(written, size_hw=(64, 64)).spec.size_hw == (64, 64)


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(json.loads(file.read(length))["__metadata__"]["detq"])
    return header


def test_header_holds_the_spec(written: Path) -> None:
    spec = load_checkpoint(written).spec
    assert ModelSpec.from_dict(_header(written)) == spec
    assert (spec.name, spec.class_names) == ("small", ("thing 0", "thing 1", "thing 2"))


def test_file_of_an_earlier_version_is_read(written: Path) -> None:
    """It held class names and size alone."""
    spec, header = load_checkpoint(written).spec, _header(written)
    known = ("schema", "kind", "architecture", "class_names", "size_hw")
    old = {key: header[key] for key in known}
    save_file(load_file(written), written, metadata={"detq": json.dumps(old)})
    assert load_checkpoint(written).spec == spec


def test_half_precision_only_where_it_is_exact(tmp_path: Path) -> None:
    model = _model()
    kernel = model.module.get_submodule("backbone.stem.rbr_dense.conv").weight
    kernel[0, 0, 0, 0] = 1 / 3
    write_safetensors(model, tmp_path / "m.safetensors")
    stored = load_file(tmp_path / "m.safetensors")
    assert stored["backbone.stem.rbr_dense.conv.weight"].dtype == torch.float32
    assert stored["backbone.stem.rbr_1x1.conv.weight"].dtype == torch.float16


EDITS: dict[str, dict[str, Any]] = {
    "names": {"class_names": ["one"]},
    "kind": {"kind": "resnet"},
    "schema": {"schema": 2},
    "size": {"size_hw": [64]},
    "strides": {"strides": [8, 16]},
}


def _rewritten(path: Path, edit: str) -> None:
    tensors, header = load_file(path), _header(path)
    first = "backbone.stem.rbr_dense.conv.weight"
    if edit == "missing":
        del tensors[first]
    elif edit == "shape":
        tensors[first] = tensors[first][:, :2].contiguous()
    elif edit == "unknown":
        tensors["backbone.extra"] = torch.zeros(1)
    elif edit == "nan":
        tensors[first][0] = torch.nan
    elif edit == "integer":
        tensors[first] = tensors[first].to(torch.int32)
    elif edit == "variance":
        tensors["backbone.stem.rbr_dense.bn.running_var"][0] = -1
    elif edit == "depth":
        header["architecture"]["backbone"][0]["depth"] = 60_000
    elif edit == "width":
        header["architecture"]["stem_channels"] = -8
    else:
        header |= EDITS[edit]
    save_file(tensors, path, metadata={"detq": json.dumps(header)})


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("missing", "is missing"),
        ("shape", "has shape"),
        ("unknown", "belongs to no part"),
        ("nan", "holds NaN"),
        ("integer", "expected floating point"),
        ("variance", "negative variance"),
        ("names", "1 class names for 3 classes"),
        ("depth", "more blocks than the file has tensors"),
        ("width", "must be in 1.."),
        ("kind", "description is malformed"),
        ("schema", "description is malformed"),
        ("size", "description is malformed"),
        ("strides", "description is of another network"),
    ],
)
def test_file_that_contradicts_itself_is_refused(written: Path, edit: str, words: str) -> None:
    _rewritten(written, edit)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_model(written)
    assert str(caught.value).startswith(f"{written}: ")
    assert "\n" not in str(caught.value)


def test_other_programs_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="does not say what network"):
        read_model(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"PK\x03\x04"])
def test_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or no safetensors"):
        read_model(path)


def test_truncated_file_is_refused(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or no safetensors"):
        read_model(written)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.safetensors"):
        read_model(tmp_path / "absent.safetensors")


def test_name_must_say_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"ends in \.safetensors"):
        write_safetensors(_model(), tmp_path / "model.pt")
    assert [*tmp_path.iterdir()] == []


def test_failed_write_leaves_the_old_file(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        write_safetensors(_model(), written)
    monkeypatch.undo()
    assert written.read_bytes() == before
    assert [*written.parent.iterdir()] == [written]
