from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from detq.errors import GraphError
from detq.models import FusedBranches, fuse_branches


def conv_bn(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Sum(nn.Module):
    """Any branches in parallel under names that say nothing, then perhaps more, then a ReLU."""

    def __init__(self, *branches: nn.Module, behind: nn.Module | None = None) -> None:
        super().__init__()
        self.parts = nn.ModuleList(branches)
        self.behind = behind or nn.Identity()
        self.squash = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.squash(self.behind(sum(part(x) for part in self.parts)))
        return y


@torch.no_grad()
def randomized(module: nn.Module, seed: int) -> nn.Module:
    """Float64, evaluation mode, every BatchNorm far from its initial values."""
    generator = torch.Generator().manual_seed(seed)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            for tensor in (child.weight, child.bias, child.running_mean, child.running_var):
                if tensor is not None:
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.3)
    return module.double().eval()


def fused_alike(module: nn.Module, channels: int, *, seed: int = 0) -> FusedBranches:
    """The fused form of ``module``, after comparing the two on random input."""
    network = randomized(module, seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((2, channels, 11, 14), generator=generator, dtype=torch.float64)
    fused = fuse_branches(network)
    torch.testing.assert_close(fused.module(x), network(x), rtol=1e-10, atol=1e-10)
    return fused


def kinds(fused: FusedBranches, *types: type[nn.Module]) -> int:
    return sum(isinstance(module, types) for module in fused.module.modules())


class Chunked(nn.Module):
    """Half of the channels through two blocks, everything side by side at the end."""

    def __init__(self, cut: str) -> None:
        super().__init__()
        self.cut = cut
        self.first = conv_bn(8, 8, 1)
        self.blocks = nn.ModuleList(Sum(conv_bn(4, 4, 3), conv_bn(4, 4, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        pieces = list(y.chunk(2, 1) if self.cut == "chunk" else y.split((4, 4), 1))
        pieces.extend(block(pieces[-1]) for block in self.blocks)
        return torch.cat(pieces, 1)


@pytest.mark.parametrize("cut", ["chunk", "split"])
def test_blocks_are_found_behind_a_list_of_pieces(cut: str) -> None:
    fused = fused_alike(Chunked(cut), 8)
    assert [block.name for block in fused.blocks] == [
        "blocks.0.parts.fused",
        "blocks.1.parts.fused",
    ]
    assert not fused.opaque


@settings(max_examples=60, deadline=None)
@given(
    kernels=st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=5),
    groups=st.sampled_from([1, 2, 4, 8]),
    narrow_groups=st.sampled_from([None, 8]),
    stride=st.sampled_from([1, 2, 3]),
    identity=st.sampled_from(["none", "bare", "normalized", "averaged"]),
    behind=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_sum_of_branches_is_one_convolution(
    kernels: list[int],
    groups: int,
    narrow_groups: int | None,
    stride: int,
    identity: str,
    behind: bool,
    seed: int,
) -> None:
    widest = max(kernels)
    branches: list[nn.Module] = [
        conv_bn(8, 8, k, stride=stride, groups=groups if k == widest else narrow_groups or groups)
        for k in kernels
    ]
    if identity == "averaged":
        branches.append(nn.AvgPool2d(3, stride, 1))
    elif identity != "none" and stride == 1:
        branches.append(nn.BatchNorm2d(8) if identity == "normalized" else nn.Identity())
    block = Sum(*branches, behind=nn.BatchNorm2d(8) if behind else None)
    fused = fused_alike(nn.Sequential(block, conv_bn(8, 4, 3)), 8, seed=seed)
    assert kinds(fused, nn.Conv2d) == 2
    assert kinds(fused, nn.BatchNorm2d, nn.AvgPool2d) == 0
    if len(branches) > 1:
        assert fused.blocks[0].name.startswith("0.")
        assert len(fused.blocks[0].branches) == len(branches)
        assert len(fused.folded) == 1


@pytest.mark.parametrize("groups", [1, 4, 8], ids=["dense", "grouped", "depthwise"])
def test_an_overparameterized_block_as_in_mobileone(groups: int) -> None:
    threes = [conv_bn(8, 8, 3, groups=groups) for _ in range(4)]
    block = Sum(*threes, conv_bn(8, 8, 1, groups=groups), nn.BatchNorm2d(8))
    fused = fused_alike(block, 8)
    (found,) = fused.blocks
    assert found.kernel_hw == (3, 3)
    assert found.branches[0] == "parts.0.0>parts.0.1"
    assert found.branches[-1] == "parts.5"
    assert kinds(fused, nn.Conv2d) == 1


def test_rectangular_and_dilated_kernels_fit_into_a_larger_one() -> None:
    row, column = nn.Conv2d(8, 8, (1, 3), padding=(0, 1)), nn.Conv2d(8, 8, (5, 1), padding="same")
    spread = conv_bn(8, 8, 3, dilation=2)
    fused = fused_alike(Sum(conv_bn(8, 8, 5), row, column, spread), 8)
    assert kinds(fused, nn.Conv2d) == 1


class Wired(nn.Module):
    """Two convolutions and a BatchNorm, connected as a test says."""

    def __init__(self, wiring: str, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.wiring = wiring
        self.first, self.second, self.norm = first, second, nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:  # noqa: PLR0911
        a = self.first(x)
        if self.wiring == "residual":
            return self.second(a.relu()) + x
        if self.wiring == "read twice":
            return self.norm(a) + self.second(x) * a
        if self.wiring == "scaled":
            return torch.add(a, self.second(x), alpha=2)
        if self.wiring == "shifted":
            return a + self.second(x) + 1.0
        if self.wiring == "in place":
            z = x * 2
            b = self.first(z)
            c = self.act(z)
            return b + self.second(z) + c
        if self.wiring == "accumulated":
            z = x * 2
            y = z
            z.add_(self.first(z))
            return y * z
        return a + self.second(x)


@pytest.mark.parametrize(
    ("wiring", "first", "second", "left"),
    [
        ("residual", conv_bn(8, 8, 3), conv_bn(8, 8, 3), 2),
        ("read twice", nn.Conv2d(8, 8, 3, padding=1), conv_bn(8, 8, 1), 2),
        ("scaled", conv_bn(8, 8, 3), conv_bn(8, 8, 1), 2),
        ("in place", nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1), 2),
        ("accumulated", nn.Conv2d(8, 8, 3, padding=1), nn.Identity(), 1),
        ("depthwise and dense", conv_bn(8, 8, 3, groups=8), conv_bn(8, 8, 1), 2),
        (
            "wraps around",
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
            conv_bn(8, 8, 1),
            2,
        ),
        ("broadcast", conv_bn(8, 1, 3), conv_bn(8, 8, 1), 2),
        (
            "crossed",
            nn.Conv2d(8, 8, (1, 3), padding=(0, 1)),
            nn.Conv2d(8, 8, (3, 1), padding=(1, 0)),
            2,
        ),
    ],
)
def test_what_is_no_single_convolution_stays(
    wiring: str, first: nn.Module, second: nn.Module, left: int
) -> None:
    fused = fused_alike(Wired(wiring, first, second), 8)
    assert not fused.blocks
    assert kinds(fused, nn.Conv2d) == left


def test_what_is_changed_in_place_beside_a_block_stays() -> None:
    accumulating = Wired("accumulated", nn.Conv2d(8, 8, 3, padding=1), nn.Identity())
    block = Sum(conv_bn(8, 8, 3), conv_bn(8, 8, 1))
    assert len(fused_alike(nn.Sequential(accumulating, block), 8).blocks) == 1


def test_what_is_added_behind_a_block_stays() -> None:
    fused = fused_alike(Wired("shifted", conv_bn(8, 8, 3), conv_bn(8, 8, 1)), 8)
    assert len(fused.blocks) == 1


def test_a_batchnorm_without_statistics_is_not_linear() -> None:
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    fused = fused_alike(nn.Sequential(nn.Conv2d(8, 8, 3), norm), 8)
    assert not fused.folded


def test_a_hook_keeps_its_module() -> None:
    block = Sum(conv_bn(8, 8, 3), conv_bn(8, 8, 1))
    block.parts[0][0].register_forward_hook(lambda _module, _inputs, output: output * 2)
    assert not fuse_branches(block).blocks


def test_a_module_called_twice_is_fused_at_both_calls() -> None:
    block = Sum(conv_bn(8, 8, 3), conv_bn(8, 8, 1), nn.BatchNorm2d(8))
    fused = fused_alike(nn.Sequential(block, block), 8)
    assert len({block.name for block in fused.blocks}) == 2


def test_the_original_is_unchanged_and_shares_nothing() -> None:
    network = Sum(conv_bn(8, 8, 3), conv_bn(8, 8, 1)).train()
    before = copy.deepcopy(network.state_dict())
    fused = fuse_branches(network)
    assert network.training
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[key], rtol=0, atol=0)
    owned = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert owned.isdisjoint(tensor.data_ptr() for tensor in fused.module.state_dict().values())


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_network_that_cannot_be_traced_is_one_line() -> None:
    with pytest.raises(GraphError, match=r"^Undecided: cannot be traced \(.*\); move") as caught:
        fuse_branches(Undecided())
    assert "\n" not in str(caught.value)


def test_what_surrounds_an_untraceable_module_is_fused() -> None:
    block = Sum(conv_bn(8, 8, 3), conv_bn(8, 8, 1))
    fused = fused_alike(nn.Sequential(block, Undecided(), conv_bn(8, 8, 3)), 8)
    assert fused.opaque == ("1",)
    assert len(fused.blocks) == len(fused.folded) == 1


class Merged(nn.Module):
    """A block that says of itself that its branches are one convolution already."""

    is_reparameterized = True

    def __init__(self, kernel: int, *, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y


def test_a_block_whose_branches_were_merged_before_counts() -> None:
    blocks = [Merged(3, norm=True), Merged(3, norm=False), Merged(1, norm=True)]
    fused = fused_alike(nn.Sequential(*blocks, conv_bn(8, 8, 3)), 8)
    assert [block.name for block in fused.blocks] == ["0.fused", "1.conv", "2.fused"]
    assert fused.folded == ("3.fused",)
    assert [conv.name for conv in fused.reparameterized] == ["0.fused", "1.conv"]


def test_names_can_be_kept() -> None:
    block = Merged(3, norm=True)
    network = randomized(nn.Sequential(block, block, conv_bn(8, 8, 3)), 0)
    fused = fuse_branches(network, keep_names=True)
    assert [block.name for block in fused.blocks] == ["0.conv", "0.conv2"]
    assert fused.folded == ("2.0",)
    x = torch.randn((1, 8, 6, 5), dtype=torch.float64)
    torch.testing.assert_close(fused.module(x), network(x), rtol=1e-10, atol=1e-10)


class Factors(nn.Module):
    """A factor per channel that is stored in another shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2, 8))
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(*self.shape)


@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (8, 1, 1)], ids=str)
def test_stored_factors_count_in_the_shape_that_they_are_read_in(shape: tuple[int, ...]) -> None:
    fused = fused_alike(Sum(nn.Sequential(conv_bn(8, 8, 3), Factors(*shape)), conv_bn(8, 8, 1)), 8)
    assert kinds(fused, nn.Conv2d) == 1


class SharedFactors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = conv_bn(8, 8, 3), conv_bn(8, 8, 1)
        self.factors = nn.Parameter(torch.linspace(0.5, 2, 8).view(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x) * self.factors - self.narrow(x) * self.factors


def test_stored_factors_may_be_read_twice() -> None:
    fused = fused_alike(SharedFactors(), 8)
    assert kinds(fused, nn.Conv2d) == 1


def test_names_are_in_the_order_of_the_network() -> None:
    blocks = [Sum(conv_bn(8, 8, 3), conv_bn(8, 8, 1)) for _ in range(4)]
    names = [block.name for block in fused_alike(nn.Sequential(*blocks), 8).blocks]
    assert all(before < after for before, after in pairwise(names))
