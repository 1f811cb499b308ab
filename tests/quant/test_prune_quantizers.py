from __future__ import annotations

import pytest
from openvino import opset15 as ops
from small_graphs import Layers, detector, images, pyramid, repvgg_like, through

from detq.config import WeightsConfig
from detq.graph.surgery import consumers, find_node, producer, producers
from detq.quant.passes.place_quantizers import PlaceQuantizers
from detq.quant.passes.prune_quantizers import PruneQuantizers
from detq.quant.passes.split_weights import SplitWeights
from detq.quant.quantizers import activation_nodes, readers
from detq.records import ReparamConvolution

IMAGES = images(1)
SPLIT = SplitWeights(WeightsConfig(split="cfws"))


def test_quantizers_that_only_arithmetic_reads_go() -> None:
    placed = through(pyramid(), PlaceQuantizers(), given=IMAGES)
    arithmetic = {
        node.get_friendly_name() for node in activation_nodes(placed.model) if not readers(node)
    }
    pruned = through(placed, PruneQuantizers(), given=IMAGES)
    names = {quantizer.name for quantizer in placed.quantizers}
    assert arithmetic
    assert {quantizer.name for quantizer in pruned.quantizers} == names - arithmetic
    left = {node.get_friendly_name() for node in activation_nodes(pruned.model)}
    assert left == names - arithmetic


@pytest.mark.parametrize("elementwise", [False, True])
def test_coarse_branches_are_not_rounded(elementwise: bool) -> None:
    prune = PruneQuantizers(elementwise=elementwise)
    placed = through(repvgg_like(), SPLIT, PlaceQuantizers(), prune, given=IMAGES)
    assert placed.splits
    for split in placed.splits:
        for branch in producers(find_node(placed.model, split.total)):
            if branch.get_type_name() == "FakeQuantize":
                assert producer(branch).get_friendly_name() == split.fine


@pytest.mark.parametrize(
    ("activation", "residual", "kept"),
    [("relu", False, True), ("sigmoid", False, True), ("relu", True, False)],
)
def test_fine_branch_keeps_its_quantizer_if_the_sum_is_rounded_next(
    activation: str, residual: bool, kept: bool
) -> None:
    """A residual is added in float: a fine branch in INT8 would only be converted for the sum."""
    make = Layers(seed=1)
    image = make.image()
    stem = ops.relu(make.convolution(image, 8, "backbone.stem", stride=2))
    inner = make.convolution(stem, 8, "backbone.inner")
    inner = ops.relu(inner) if activation == "relu" else ops.multiply(inner, ops.sigmoid(inner))
    deep = ops.add(inner, stem) if residual else inner
    last = make.convolution(deep, 7, "detect.pred", kernel=1)
    graph = detector(image, last, [ReparamConvolution("backbone.inner", "backbone")])
    placed = through(graph, SPLIT, PlaceQuantizers(), PruneQuantizers(), given=IMAGES)
    fine = consumers(find_node(placed.model, "backbone.inner"))[0]
    assert (fine.get_type_name() == "FakeQuantize") == kept
    assert any(quantizer.is_fine_branch for quantizer in placed.quantizers) == kept
