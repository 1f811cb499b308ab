"""Checkpoints in the original format, with what the original program computed from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from detq.adapters import FloatModel, fuse_model, load_checkpoint
from detq.records import COCO_NAMES

# name: number of re-parameterized convolutions
GOLDENS = {
    "yolov6n": 35,
    "yolov6n_fuseab": 35,
    "yolov6n_distill": 35,
    "yolov6s_nc3": 35,
    "yolov6m": 35,
    "yolov6l": 0,
    "yolov6n6": 46,
    "yolov6m6": 46,
    "yolov6s_mbla": 0,
    "yolov6n_base": 0,
    "yolov6t": 35,
    "yolov6n_qa": 35,
    "yolov6m_qa": 35,
    "yolov6n_opt": 35,
    "yolov6_lite_s": 0,
}


@pytest.mark.parametrize("name", GOLDENS)
def test_output_equals_the_original_before_and_after_fusing(shared: Path, name: str) -> None:
    folder = shared / "goldens/yolov6"
    model = load_checkpoint(folder / f"{name}.pt")
    fused = fuse_model(model)
    with np.load(folder / f"{name}.npz") as golden:
        images = torch.from_numpy(golden["image"]).float() / 255
        output = golden["output"].transpose(0, 2, 1)  # [B, 5+nc, N]
    expected = np.concatenate((output[:, :4], output[:, 5:]), axis=1)
    assert _relative_error(model, images, expected) < 1e-3
    assert _relative_error(fused, images, expected) < 1e-3
    assert len(fused.spec.reparameterized) == GOLDENS[name]


def _relative_error(model: FloatModel, images: torch.Tensor, expected: np.ndarray) -> float:
    actual = model.module(images).numpy()
    return float((np.abs(actual - expected) / np.maximum(np.abs(expected), 1)).max())


@pytest.mark.parametrize(
    ("name", "size", "strides"),
    [
        ("yolov6n", 640, (8, 16, 32)),
        ("yolov6n6", 1280, (8, 16, 32, 64)),
        ("yolov6_lite_s", 320, (8, 16, 32, 64)),
    ],
)
def test_each_family_has_its_own_input_size(
    shared: Path, name: str, size: int, strides: tuple[int, ...]
) -> None:
    spec = load_checkpoint(shared / f"goldens/yolov6/{name}.pt").spec
    assert (spec.name, spec.family) == (name, "yolov6")
    assert spec.size_hw == (size, size)
    assert spec.strides == strides
    assert spec.class_names == COCO_NAMES


def test_a_file_without_class_names_gets_placeholders(shared: Path) -> None:
    spec = load_checkpoint(shared / "goldens/yolov6/yolov6s_nc3.pt", size_hw=(320, 416)).spec
    assert spec.class_names == ("class0", "class1", "class2")
    assert spec.has_placeholder_names
    assert spec.size_hw == (320, 416)


def test_a_trained_checkpoint_loads_with_its_class_names(shared: Path) -> None:
    model = fuse_model(load_checkpoint(shared / "checkpoints/bccd_yolov6n.pt"))
    assert model.spec.class_names == ("RBC", "WBC", "Platelets")
    parts = [convolution.part for convolution in model.spec.reparameterized]
    assert (parts.count("backbone"), parts.count("neck"), parts.count("head")) == (19, 16, 0)
    assert model.spec.reparameterized[0].name == "backbone.stem.conv"
    for convolution in model.spec.reparameterized:
        assert isinstance(model.module.get_submodule(convolution.name), torch.nn.Conv2d)
