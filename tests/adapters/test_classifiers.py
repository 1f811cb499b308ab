"""State dicts of classifiers: goldens of the original program, and files under other names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from detq.adapters import FloatModel, convert, fuse_model, load_checkpoint
from detq.errors import CheckpointError
from detq.models.classifiers import IMAGENET_MEAN, IMAGENET_STD

# name: re-parameterized layers, layers in groups, layers with squeeze and excite
GOLDENS = {"repvgg_a0_slim": (22, 0), "repvgg_b1g2_slim": (28, 13), "repvgg_d2se_slim": (14, 0)}
forms = pytest.mark.parametrize("form", ["train", "deploy"])
goldens = pytest.mark.parametrize("name", GOLDENS)


def _images(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """What makes the golden's normalised input out of 0..1, and the original's probabilities."""
    with np.load(folder / f"{name}.npz") as golden:
        normalized, logits = (torch.from_numpy(golden[key]) for key in ("input", "output"))
    mean, std = (torch.tensor(colour).view(1, 3, 1, 1) for colour in (IMAGENET_MEAN, IMAGENET_STD))
    return normalized * std + mean, torch.softmax(logits, 1)


def _logit_error(model: FloatModel, images: Tensor, expected: Tensor) -> float:
    """Largest difference of log-probabilities: scores alone would hide small classes."""
    return float((model.module(images).log() - expected.log()).abs().max())


@goldens
@forms
def test_output_equals_the_original_before_and_after_fusing(
    shared: Path, name: str, form: str
) -> None:
    folder = shared / "goldens/repvgg"
    images, expected = _images(folder, name)
    model = load_checkpoint(folder / f"{name}-{form}.pth", size_hw=(96, 96))
    assert model.spec.task == "classify"
    assert _logit_error(model, images, expected) < 1e-4
    assert _logit_error(fuse_model(model), images, expected) < 1e-4


@goldens
def test_both_forms_fuse_to_convolutions_of_the_same_names(shared: Path, name: str) -> None:
    folder = shared / "goldens/repvgg"
    fused = [
        fuse_model(load_checkpoint(folder / f"{name}-{form}.pth", size_hw=(96, 96)))
        for form in ("train", "deploy")
    ]
    train, deploy = (model.spec.reparameterized for model in fused)
    assert sorted(conv.name for conv in train) == sorted(conv.name for conv in deploy)
    count, grouped = GOLDENS[name]
    assert len(train) == count
    for model in fused:
        convolutions = [model.module.get_submodule(conv.name) for conv in train]
        assert all(isinstance(conv, nn.Conv2d) for conv in convolutions)
        assert sum(conv.groups == 2 for conv in convolutions) == grouped


@goldens
def test_structure_is_that_of_the_manifest(shared: Path, name: str) -> None:
    folder = shared / "goldens/repvgg"
    wanted = json.loads((folder / "manifest.json").read_text())[name]
    spec = load_checkpoint(folder / f"{name}-train.pth").spec
    assert spec.class_count == wanted["num_classes"]
    assert spec.has_placeholder_names
    assert (spec.size_hw, spec.strides, spec.family) == ((224, 224), (32,), "repvgg")
    depths = [0] * 5
    for conv in fuse_model(load_checkpoint(folder / f"{name}-train.pth")).spec.reparameterized:
        depths[int(conv.name[len("stage")])] += 1
    assert depths == [1, *wanted["num_blocks"]]


def test_a_file_of_the_old_format_reads_the_same(shared: Path, tmp_path: Path) -> None:
    folder = shared / "goldens/repvgg"
    state = torch.load(folder / "repvgg_a0_slim-train.pth", weights_only=True)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    images, expected = _images(folder, "repvgg_a0_slim")
    model = load_checkpoint(tmp_path / "old.pth", size_hw=(96, 96))
    assert _logit_error(model, images, expected) < 1e-4


@pytest.mark.parametrize("length", [0.5, 0.999], ids=["half", "nearly all"])
def test_a_cut_off_file_of_the_old_format_is_an_error(
    shared: Path, tmp_path: Path, length: float
) -> None:
    state = torch.load(shared / "goldens/repvgg/repvgg_a0_slim-deploy.pth", weights_only=True)
    path = tmp_path / "old.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[: int(length * len(content))])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_checkpoint(path)


def test_converted_file_is_the_same_network(shared: Path, tmp_path: Path) -> None:
    folder = shared / "goldens/repvgg"
    convert(folder / "repvgg_d2se_slim-train.pth", tmp_path / "d2se.safetensors")
    images, expected = _images(folder, "repvgg_d2se_slim")
    model = load_checkpoint(tmp_path / "d2se.safetensors", size_hw=(96, 96))
    assert model.spec.task == "classify"
    assert _logit_error(model, images, expected) < 1e-4


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers = nn.Sequential()
    layers.add_module("conv", conv)
    layers.add_module("bn", nn.BatchNorm2d(outputs))
    return layers


class _Squeeze(nn.Module):
    def __init__(self, channels: int, down: str, up: str) -> None:
        super().__init__()
        self.names = down, up
        self.add_module(down, nn.Conv2d(channels, channels // 4, 1))
        self.add_module(up, nn.Conv2d(channels // 4, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        down, up = (self.get_submodule(name) for name in self.names)
        return x * torch.sigmoid(up(torch.relu(down(x.mean((2, 3), keepdim=True)))))


class _PlusBlock(nn.Module):
    """RepVGGplus: squeeze and excite behind the activation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.rbr_dense = _conv_bn(inputs, outputs, 3, stride, 1)
        self.rbr_1x1 = _conv_bn(inputs, outputs, 1, stride, 1)
        if inputs == outputs and stride == 1:
            self.rbr_identity = nn.BatchNorm2d(outputs)
        self.post_se = _Squeeze(outputs, "down", "up")

    def forward(self, x: Tensor) -> Tensor:
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        if hasattr(self, "rbr_identity"):
            y = y + self.rbr_identity(x)
        return self.post_se(torch.relu(y))


class _PlusStage(nn.Module):
    def __init__(self, inputs: int, outputs: int, depth: int, stride: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _PlusBlock(outputs if index else inputs, outputs, 1 if index else stride)
            for index in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class _Plus(nn.Module):
    """The layout of RepVGGplus: the third stage in two, a head for training at its seam."""

    def __init__(self) -> None:
        super().__init__()
        self.stage0 = _PlusBlock(3, 8, 2)
        self.stage1 = _PlusStage(8, 8, 2, 2)
        self.stage2 = _PlusStage(8, 16, 2, 2)
        self.stage3_first = _PlusStage(16, 16, 2, 2)
        self.stage3_second = _PlusStage(16, 16, 11, 1)  # two digits: sorted by value
        self.stage4 = _PlusStage(16, 24, 1, 2)
        self.linear = nn.Linear(24, 4)
        self.stage3_first_aux = nn.Sequential(_conv_bn(16, 16, 3, 2, 1), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        for stage in ("stage0", "stage1", "stage2", "stage3_first", "stage3_second", "stage4"):
            x = self.get_submodule(stage)(x)
        return self.linear(x.mean((2, 3)))


class _TimmBlock(nn.Module):
    """MobileOne and RepVGG under timm's names: any number of branches, or a list of one."""

    def __init__(
        self,
        shape: tuple[int, int],
        kernel: int,
        stride: int,
        *,
        groups: int = 1,
        branches: int = 0,
        squeeze: bool = False,
    ) -> None:
        super().__init__()
        inputs, outputs = shape
        listed = [_conv_bn(inputs, outputs, kernel, stride, groups) for _ in range(branches or 1)]
        self.conv_kxk = nn.ModuleList(listed) if branches else listed[0]
        if kernel > 1:
            name = "conv_scale" if branches else "conv_1x1"
            self.add_module(name, _conv_bn(inputs, outputs, 1, stride, groups))
        if inputs == outputs and stride == 1:
            self.identity = nn.BatchNorm2d(outputs)
        if squeeze:
            self.attn = _Squeeze(outputs, "fc1", "fc2")

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros(())
        for name, child in self.named_children():
            if name != "attn":
                parts = child if isinstance(child, nn.ModuleList) else [child]
                y = y + sum(part(x) for part in parts)
        return torch.relu(self.attn(y) if hasattr(self, "attn") else y)


class _Timm(nn.Module):
    def __init__(self, stem: nn.Module, stages: list[list[nn.Module]], channels: int) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*(nn.Sequential(*blocks) for blocks in stages))
        self.head = nn.Module()
        self.head.fc = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head.fc(self.stages(self.stem(x)).mean((2, 3)))


def _timm_mobileone() -> nn.Module:
    def pair(inputs: int, outputs: int, stride: int, *, squeeze: bool = False) -> list[nn.Module]:
        wide = _TimmBlock((inputs, inputs), 3, stride, groups=inputs, branches=3, squeeze=squeeze)
        return [wide, _TimmBlock((inputs, outputs), 1, 1, branches=3, squeeze=squeeze)]

    stem = _TimmBlock((3, 8), 3, 2, branches=3)
    stages = [pair(8, 12, 2), [*pair(12, 16, 2), *pair(16, 16, 1, squeeze=True)]]
    return _Timm(stem, stages, 16)


def _timm_repvgg() -> nn.Module:
    first = [_TimmBlock((8, 8), 3, 2), _TimmBlock((8, 8), 3, 1, groups=4)]
    return _Timm(_TimmBlock((3, 8), 3, 2), [first, [_TimmBlock((8, 16), 3, 2)]], 16)


@torch.no_grad()
def _randomized(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0, 0.2, generator=generator)
    return network.eval().requires_grad_(False)


def _wrapped(state: dict[str, Any]) -> Iterator[tuple[str, object]]:
    yield "bare", state
    yield "state_dict", {"state_dict": {f"module.{key}": state[key] for key in state}, "epoch": 3}
    yield "model", {"model": state, "acc": 81.5, "optimizer": {"state": {}, "param_groups": []}}


@pytest.mark.parametrize(
    ("build", "family", "count"),
    [(_Plus, "repvgg", 19), (_timm_mobileone, "mobileone", 4), (_timm_repvgg, "repvgg", 4)],
    ids=["RepVGGplus", "timm mobileone", "timm repvgg"],
)
def test_other_layouts_compute_what_their_own_forward_does(
    tmp_path: Path, build: Any, family: str, count: int
) -> None:
    torch.manual_seed(0)
    network = _randomized(build())
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(colour).view(1, 3, 1, 1) for colour in (IMAGENET_MEAN, IMAGENET_STD))
    expected = torch.softmax(network((images - mean) / std), 1)
    assert expected.max() < 0.999  # else it would say little
    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    for name, document in _wrapped(state):
        torch.save(document, tmp_path / f"{name}.pth")
    save_file(state, tmp_path / "plain.safetensors")
    for path in sorted(tmp_path.iterdir()):
        model = load_checkpoint(path, size_hw=(64, 64))
        fused = fuse_model(model)
        assert _logit_error(model, images, expected) < 1e-4, path
        assert _logit_error(fused, images, expected) < 1e-4, path
        assert model.spec.family == family
        assert len(fused.spec.reparameterized) == count


def test_what_a_wrapper_says_is_used(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = _randomized(_timm_repvgg()).state_dict()
    facts = {"names": list("abcd"), "strides": [1, 2, 2], "imgsz": 32, "mean": [0.5] * 3}
    torch.save({"state_dict": state, **facts}, tmp_path / "x.pth")
    spec = load_checkpoint(tmp_path / "x.pth").spec
    assert (spec.class_names, spec.strides, spec.size_hw) == (tuple("abcd"), (4,), (32, 32))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stem.conv_kxk.bn.running_var": None}, "stem.branches.0.bn.running_var is missing"),
        ({"stem.conv_kxk.bn.bias": torch.zeros(9)}, "has shape [9], expected [8]"),
        ({"stages.0.0.conv_kxk.conv.weight": torch.zeros(8, 3, 3, 3)}, "reads 3 channels"),
        ({"stages.7.0.blur.weight": torch.zeros(1)}, "no convolution of four dimensions"),
        ({"neck.conv.weight": torch.zeros(1)}, "neck.conv.weight belongs to no part"),
        ({"head.fc.bias": torch.full((4,), torch.nan)}, "linear.bias holds NaN"),
    ],
    ids=["missing", "shape", "channels", "unknown block", "unknown part", "NaN"],
)
def test_a_state_dict_that_does_not_fit_is_an_error_naming_the_tensor(
    tmp_path: Path, change: dict[str, Tensor | None], said: str
) -> None:
    state = {**_timm_repvgg().state_dict(), **change}
    path = tmp_path / "x.pth"
    torch.save({key: tensor for key, tensor in state.items() if tensor is not None}, path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"names": ["a"]}, "1 class names for 4 classes"),
        ({"strides": [2, 2]}, "strides of 2 stages, the network has 3"),
        ({"strides": "22222"}, "strides: expected a list of whole numbers"),
        ({"imgsz": -1}, "imgsz: expected pixels"),
        ({"std": [0.0, 1.0, 1.0]}, "std must be positive"),
        ({"strides": [2, 2, 70_000]}, "stride must be in"),
    ],
)
def test_facts_that_contradict_the_weights_are_an_error(
    tmp_path: Path, facts: dict[str, object], said: str
) -> None:
    torch.save({"state_dict": _timm_repvgg().state_dict(), **facts}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(tmp_path / "x.pth")
