"""Every YOLOv6 family is found by what its blocks compute, as the rules by name find it."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import openvino as ov
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rules_by_name import fuse_by_name
from small_networks import random_images, randomize, small_network
from torch import nn

from detq.models import OFFICIAL_NAMES, FusedBranches, build, fuse_branches, official
from detq.models.blocks import BLOCKS, ConvModule, DPBlock

CHANGING = {"channels_change": (6, 8, 1), "stride_2": (8, 8, 2), "identity": (8, 8, 1)}


def fuse(network: nn.Module) -> FusedBranches:
    return fuse_branches(network, keep_names=True)


@pytest.mark.parametrize("shape", CHANGING.values(), ids=CHANGING.keys())
@pytest.mark.parametrize("kind", BLOCKS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_fused_block_computes_the_same(kind: str, shape: tuple[int, int, int], seed: int) -> None:
    in_channels, out_channels, stride = shape
    block = BLOCKS[kind](in_channels, out_channels, stride=stride)
    _assert_same_after_fusing(block, in_channels, seed)


@pytest.mark.parametrize(
    "block",
    [partial(ConvModule, 8, 8, 3, groups=8, activation=nn.Hardswish), partial(DPBlock, 8, 5)],
    ids=["depthwise", "depthwise_pointwise"],
)
def test_lite_blocks_fuse_too(block: partial[nn.Module]) -> None:
    _assert_same_after_fusing(block(), 8, seed=1)


def _assert_same_after_fusing(block: nn.Module, channels: int, seed: int) -> None:
    network = randomize(nn.Sequential(block), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((2, channels, 9, 7), generator=generator)
    fused = fuse(network).module
    torch.testing.assert_close(fused(x), network(x), rtol=1e-5, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


@pytest.mark.parametrize("name", OFFICIAL_NAMES)
def test_a_fused_network_is_the_one_that_the_rules_by_name_make(name: str) -> None:
    """Bit for bit, and it computes what the network computed."""
    network = small_network(official(name, class_count=3))
    expected, fused = fuse_by_name(network), fuse(network)
    assert fused.reparameterized == expected.reparameterized
    assert fused.opaque == ("detect.decode",)
    state, expected_state = fused.module.state_dict(), expected.module.state_dict()
    assert state.keys() == expected_state.keys()
    assert all(torch.equal(state[key], expected_state[key]) for key in state)
    images = random_images(128, 64)
    actual, predictions = fused.module(images), network(images)
    torch.testing.assert_close(actual, expected.module(images), rtol=1e-5, atol=1e-5)
    assert ((actual - predictions).abs() / predictions.abs().clamp(min=1)).max() < 1e-3


@pytest.mark.parametrize("name", ["yolov6s", "yolov6m", "yolov6s_mbla", "yolov6_lite_s"])
def test_every_operation_of_the_graph_has_the_name_of_its_module(name: str) -> None:
    """Also sums, concatenations and splits, which are no modules."""
    network = small_network(official(name, class_count=3))
    example = np.zeros((1, 3, 128, 64), np.float32)
    actual, expected = (
        ov.convert_model(module, example_input=example, input=[1, 3, 128, 64])
        for module in (fuse(network).module, fuse_by_name(network).module)
    )
    assert _named(actual) == _named(expected)


def _named(model: ov.Model) -> list[tuple[str, str]]:
    """Type and name of every operation with a name, in order; others have a running number."""
    operations = [
        (node.get_type_name(), node.get_friendly_name()) for node in model.get_ordered_ops()
    ]
    named = [(kind, name) for kind, name in operations if name.startswith("__module.")]
    return [(kind, name) for kind, name in named if kind != "Constant"]


def test_the_original_keeps_its_weights_and_shares_none() -> None:
    network = small_network(official("yolov6n", class_count=3))
    before = copy.deepcopy(network.state_dict())
    fused = fuse(network).module
    for tensor in fused.state_dict().values():
        tensor.zero_()
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize(
    ("name", "count"),
    [("yolov6n", 35), ("yolov6n_qa", 35), ("yolov6n_opt", 35), ("yolov6n_hs", 35), ("yolov6l", 0)],
)
def test_names_point_at_the_convolutions_that_branches_went_into(name: str, count: int) -> None:
    fused = fuse(build(official(name, class_count=80)))
    assert len(fused.reparameterized) == count
    for convolution in fused.reparameterized:
        module = fused.module.get_submodule(convolution.name)
        assert isinstance(module, nn.Conv2d)
        assert module.kernel_size == (3, 3)
        assert convolution.name.startswith(f"{convolution.part}.")
