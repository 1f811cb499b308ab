"""Classifiers of one's own through ``detq.adapt``: depthwise blocks as MobileOne and FastViT."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import detq
from detq.api import DetectorGraph
from detq.config import WeightsConfig
from detq.errors import GraphError
from detq.graph.execute import compile_exact
from detq.graph.surgery import find_node, nodes_of_type
from detq.quant.quantizer import split_graph

SIDE_PX = 32


def _norm(channels: int, seed: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    generator = torch.Generator().manual_seed(seed)
    norm.running_mean.normal_(0, 0.2, generator=generator)  # type: ignore[union-attr]
    norm.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
    return norm


class _Depthwise(nn.Module):
    """Depthwise branches of several sizes and the input, summed: MobileOne's, FastViT's."""

    def __init__(self, channels: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, k, 1, k // 2, groups=channels, bias=False),
                _norm(channels, k),
            )
            for k in kernels
        )
        self.skip = _norm(channels, 0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.skip(x)
        for branch in self.branches:
            y = y + branch(x)
        return y


class _Mixer(nn.Module):
    """FastViT's token mixer: x + scale · (block(x) - BatchNorm(x)), all of it linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block, self.norm = _Depthwise(channels, (3, 1)), _norm(channels, 1)
        self.scale = nn.Parameter(0.5 * torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * (self.block(x) - self.norm(x))


class _Network(nn.Module):
    def __init__(self, *, softmax: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.mixer = _Mixer(16)
        self.wide = _Depthwise(16, (7, 3))  # FastViT's feed-forward part begins with such a one
        self.point = nn.Conv2d(16, 24, 1)
        self.small = _Depthwise(24, (3, 3, 3, 1))
        self.linear = nn.Linear(24, 3)
        self.softmax = softmax

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.stem(images))
        x = torch.relu(self.wide(self.mixer(x)))
        x = torch.relu(self.small(torch.relu(self.point(x))))
        logits = self.linear(x.mean((2, 3)))
        return logits.softmax(1) if self.softmax else logits


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return _Network().eval()


def _adapt(network: nn.Module) -> DetectorGraph:
    names = ["a", "b", "c"]
    return detq.adapt(network, class_names=names, imgsz=SIDE_PX, name="mine", task="classify")


def test_depthwise_blocks_and_the_mixer_become_one_convolution_each(network: nn.Module) -> None:
    graph = _adapt(network)
    kernels = [
        tuple(find_node(graph.model, conv.name).get_input_shape(1))
        for conv in graph.spec.reparameterized
    ]
    assert kernels == [(16, 1, 1, 3, 3), (16, 1, 1, 7, 7), (24, 1, 1, 3, 3)]
    assert len(nodes_of_type(graph.model, "GroupConvolution", "Convolution")) == 5
    images = torch.rand(1, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(1))
    expected = network(images).detach().numpy()
    found = compile_exact(graph.model)(images.numpy())[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("split", ["cfws", "residual"])
def test_split_of_depthwise_convolutions_is_function_preserving(
    network: nn.Module, split: str
) -> None:
    graph = _adapt(network)
    result = split_graph(graph, WeightsConfig(split=split))  # type: ignore[arg-type]
    assert [s.fine for s in result.splits] == [conv.name for conv in graph.spec.reparameterized]
    for split_convolution in result.splits:
        coarse = find_node(result.model, split_convolution.coarse)
        assert coarse.get_type_name() == "GroupConvolution"
    images = np.random.default_rng(0).random((1, 3, SIDE_PX, SIDE_PX), np.float32)
    before, after = (compile_exact(each.model)(images)[0] for each in (graph, result.graph))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_depthwise_network_is_quantized_with_its_splits(network: nn.Module, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(40):
        (tmp_path / "train/a").mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (6, 6, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"train/a/{number}.png"), cv2.resize(image, (40, 40)))
    result = detq.quantize(_adapt(network), data=tmp_path, recipe="cfws_kl", calibration_images=20)
    assert len(result.quantized.split_layers) == 3
    assert result.int8_share > 0.9
    assert result.agreement is not None
    images = np.random.default_rng(1).random((1, 3, SIDE_PX, SIDE_PX), np.float32)
    exact, rounded = (
        compile_exact(graph.model)(images)[0] for graph in (result.float_graph, result.graph)
    )
    assert np.abs(exact - rounded).max() < 0.05


def test_scores_must_be_probabilities() -> None:
    with pytest.raises(GraphError, match="softmax is missing"):
        _adapt(_Network(softmax=False))
