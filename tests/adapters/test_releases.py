"""Every family and release in and out: our network -> a file in YOLOv6's layout -> our network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forge import Edit, write_checkpoint
from small_networks import random_images, shrink, small_network
from torch import nn

from detq.adapters import fuse_model, load_checkpoint
from detq.adapters.load import read_model
from detq.models import (
    OFFICIAL_NAMES,
    AnyArchitecture,
    YOLOv6Architecture,
    fuse_branches,
    official,
)

OLD_NAMES = ("yolov6n", "yolov6s", "yolov6m", "yolov6l", "yolov6n6", "yolov6l6", "yolov6t")
DEPLOYED_NAMES = (*OLD_NAMES, "yolov6n_qa", "yolov6m_qa", "yolov6n_opt", "yolov6_lite_s")


def _round_trip(path: Path, architecture: AnyArchitecture, **options: object) -> None:
    """A folded or biased kernel is no half-precision number: such files are written in float32."""
    network = small_network(architecture)
    rounded = bool(options.get("deployed") or options.get("release"))
    write_checkpoint(path, network, architecture, half=not rounded, **options)
    loaded = read_model(path)
    assert loaded.architecture == shrink(architecture)
    images = random_images(128, 64)
    expected = network(images)
    scale = expected.abs().clamp(min=1)
    error = float(((loaded.module(images) - expected).abs() / scale).max())
    assert error < 1e-3


@pytest.mark.parametrize("name", OFFICIAL_NAMES)
def test_every_family_survives_the_round_trip(tmp_path: Path, name: str) -> None:
    _round_trip(tmp_path / "x.pt", official(name, class_count=3))


@pytest.mark.parametrize("name", OLD_NAMES)
def test_release_0_3_loads(tmp_path: Path, name: str) -> None:
    _round_trip(tmp_path / "x.pt", official(name, class_count=3), release="0.3")


@pytest.mark.parametrize("name", DEPLOYED_NAMES)
def test_a_file_saved_in_deployed_form_loads(tmp_path: Path, name: str) -> None:
    _round_trip(tmp_path / "x.pt", official(name, class_count=3), deployed=True)


def test_qarepvgg_version_1_loads(tmp_path: Path) -> None:
    architecture = _plain("yolov6n", block="qarepvgg")
    _round_trip(tmp_path / "x.pt", architecture)
    _round_trip(tmp_path / "y.pt", architecture, deployed=True)


def test_release_0_1_with_its_objectness_head_loads(tmp_path: Path) -> None:
    _round_trip(tmp_path / "x.pt", _plain("yolov6t", head="objectness"), release="0.3")


def test_release_0_2_large_with_pan_neck_loads(tmp_path: Path) -> None:
    _round_trip(tmp_path / "x.pt", _plain("yolov6l", neck="pan"), release="0.3")


def test_fusing_a_deployed_file_gives_the_stored_kernels_back(tmp_path: Path) -> None:
    architecture = official("yolov6n", class_count=3)
    network = small_network(architecture)
    path = write_checkpoint(tmp_path / "x.pt", network, architecture, deployed=True)
    model = fuse_model(load_checkpoint(path))
    expected = fuse_branches(network, keep_names=True)
    assert model.spec.reparameterized == expected.reparameterized
    name = expected.reparameterized[3].name
    stored = expected.module.get_submodule(name).weight.half().float()
    torch.testing.assert_close(
        model.module.get_submodule(name).weight, stored, rtol=1e-5, atol=1e-6
    )


def _add_branch(source: str, branch: str, *, channels: int) -> Edit:
    """Add to the head a copy of ``source`` with other weights and ``channels`` outputs."""

    def edit(modules: dict[str, nn.Module]) -> None:
        widths = [conv.in_channels for conv in modules["detect"].get_submodule(source)]
        branches = nn.ModuleList(nn.Conv2d(width, channels, 1).half() for width in widths)
        modules["detect"].add_module(branch, branches)

    return edit


def _rename(old: str, new: str) -> Edit:
    def edit(modules: dict[str, nn.Module]) -> None:
        modules["detect"].add_module(new, modules[f"detect.{old}"])
        delattr(modules["detect"], old)

    return edit


def _distilled(modules: dict[str, nn.Module]) -> None:
    _add_branch("reg_preds", "reg_preds_dist", channels=68)(modules)
    modules["detect"].use_dfl = True


def _distilled_0_3(modules: dict[str, nn.Module]) -> None:
    _rename("reg_preds", "reg_preds_lrtb")(modules)
    _add_branch("reg_preds_lrtb", "reg_preds", channels=68)(modules)
    modules["detect"].use_dfl = True


def _anchored_0_3(modules: dict[str, nn.Module]) -> None:
    for name, channels in (("cls_preds", 9), ("reg_preds", 12)):
        _add_branch(name, f"{name}_ab", channels=channels)(modules)
        _rename(name, f"{name}_af")(modules)


@pytest.mark.parametrize("edit", [_distilled, _distilled_0_3, _anchored_0_3])
def test_branches_of_the_head_that_only_training_uses_are_dropped(
    tmp_path: Path, edit: Edit
) -> None:
    _round_trip(tmp_path / "x.pt", official("yolov6n", class_count=3), edit=edit)


def _plain(name: str, **changes: object) -> YOLOv6Architecture:
    architecture = official(name, class_count=3)
    assert isinstance(architecture, YOLOv6Architecture)
    return replace(architecture, **changes)
