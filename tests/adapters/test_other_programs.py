"""Checkpoints of other programs: named, with what makes them readable; wrappers are read."""

from __future__ import annotations

import pickle
import sys
import tarfile
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from forge import write_checkpoint
from small_networks import small_network
from torch import nn

from detq.adapters import load_checkpoint
from detq.errors import CheckpointError
from detq.graph.foreign import from_onnx
from detq.models import official

ARCHITECTURE = official("yolov6n_base", class_count=3)


def _pretended(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An object of a class that another program has."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        known = ".".join(parts[:end])
        monkeypatch.setitem(sys.modules, known, sys.modules.get(known) or types.ModuleType(known))
    kind = type(name, (nn.Module,), {"__module__": module})
    monkeypatch.setattr(sys.modules[module], name, kind, raising=False)
    return kind()


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        (
            "models.yolo",
            "Model",
            "YOLOv5's or YOLOv7's own repository; there, run",
        ),
        ("models.yolo", "DetectionModel", "--include onnx"),
        ("ultralytics.nn.tasks", "SegmentationModel", "network of Ultralytics for segmentation"),
        ("ultralytics.nn.tasks", "PoseModel", "for pose; detq reads its detectors"),
        ("mmengine.config", "Config", "export it with MMDeploy and pass the .onnx"),
        ("super_gradients.training", "Net", "model.export()"),
    ],
)
def test_networks_of_other_programs_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, words: str
) -> None:
    network = _pretended(module, name, monkeypatch)
    path = tmp_path / "x.pt"
    torch.save({"model": network}, path)
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path)
    assert words in str(raised.value)
    assert "nothing in it was run" in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["backbone.backbone.stem.conv.conv.weight"], "YOLOX, which do not say how they connect"),
        (["module.backbone.backbone.dark2.0.conv.weight"], "tools/export_onnx.py"),
        (["backbone.stem.rbr_dense.conv.weight"], "the weights of YOLOv6 alone"),
        (["model.0.conv.weight", "model.24.m.0.weight"], "a YOLO network alone"),
        (["encoder.weight"], "export the network to ONNX where it was trained"),
    ],
)
@pytest.mark.parametrize("under", [None, "model", "state_dict"])
def test_weights_alone_are_named(
    tmp_path: Path, keys: list[str], words: str, under: str | None
) -> None:
    state = {key: torch.zeros(1) for key in keys}
    torch.save(state if under is None else {under: state, "epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="holds tensors only") as raised:
        load_checkpoint(tmp_path / "x.pt")
    assert words in str(raised.value)


def test_mmdetection_is_named_by_its_versions(tmp_path: Path) -> None:
    weights = {"backbone.conv1.weight": torch.zeros(1)}
    torch.save({"meta": {"mmdet_version": "3.0"}, "state_dict": weights}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="an MMDetection model; export it with MMDeploy"):
        load_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        (b"\n<!DOCTYPE html><html></html>", "a web page in place of the file"),
    ],
)
@pytest.mark.parametrize("name", ["x.pt", "x.onnx"])
def test_what_lies_in_a_files_place_is_named(
    tmp_path: Path, content: bytes, words: str, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    read = from_onnx if name.endswith(".onnx") else load_checkpoint
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path / name)


def test_torchscript_and_tar_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
        file.writestr("x/constants.pkl", b"\x80\x02).")
        file.writestr("x/data.pkl", b"\x80\x02).")
    with pytest.raises(CheckpointError, match="a TorchScript; export the network to ONNX"):
        load_checkpoint(tmp_path / "x.pt")
    (tmp_path / "sys_info").write_bytes(pickle.dumps({}))
    with tarfile.open(tmp_path / "y.pt", "w") as archive:
        archive.add(tmp_path / "sys_info", "sys_info")
    with pytest.raises(CheckpointError, match="a tar archive, as torch wrote before"):
        load_checkpoint(tmp_path / "y.pt")


def _in_data_parallel(tmp_path: Path, wrapper: str) -> Path:
    alone = f"file://{tmp_path / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=alone, rank=0, world_size=1)
    try:
        return write_checkpoint(
            tmp_path / "wrapped.pt",
            small_network(ARCHITECTURE),
            ARCHITECTURE,
            wrap=getattr(nn.parallel, wrapper),
        )
    finally:
        torch.distributed.destroy_process_group()


def test_a_network_inside_data_parallel_is_read(tmp_path: Path) -> None:
    plain = write_checkpoint(tmp_path / "plain.pt", small_network(ARCHITECTURE), ARCHITECTURE)
    expected = load_checkpoint(plain).module.state_dict()
    found = load_checkpoint(_in_data_parallel(tmp_path, "DataParallel")).module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


def test_a_network_inside_distributed_data_parallel_is_named(tmp_path: Path) -> None:
    path = _in_data_parallel(tmp_path, "DistributedDataParallel")
    with pytest.raises(CheckpointError, match=r"save its `\.module`"):
        load_checkpoint(path)
