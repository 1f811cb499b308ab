from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import detq
import detq.api
from detq.data.digits import write_digits
from detq.errors import GraphError
from detq.runtime.execution import convolution_macs

GUIDE = Path(__file__).parents[2] / "docs/adapters.md"


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(3, 6, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return (self.wide(x) + self.narrow(x)).sigmoid()


class _Network(nn.Module):
    """Its output for two classes is [B, 6, N], or ``shape`` if that is given."""

    def __init__(self, shape: tuple[int, ...] = (1, 6, 256)) -> None:
        super().__init__()
        self.block, self.shape = _Block(), shape

    def forward(self, images: Tensor) -> Tensor:
        return self.block(images).reshape(self.shape)


def _adapt(network: nn.Module) -> object:
    return detq.adapt(network, class_names=["a", "b"], strides=[2], imgsz=32, name="mine")


def test_own_network_becomes_a_detector_graph_with_its_blocks_fused() -> None:
    torch.manual_seed(0)
    network = _Network()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    graph = _adapt(network)
    assert isinstance(graph, detq.api.DetectorGraph)
    assert [each.name for each in graph.spec.reparameterized] == ["block.fused"]
    assert len(convolution_macs(graph.model)) == 1
    image = torch.rand(1, 3, 32, 32)
    expected = network.eval()(image).detach().numpy()
    actual = graph.model.clone()
    found = detq.api.Detector(detq.api.DetectorGraph(actual, graph.spec))
    pixels = (image.numpy()[:, ::-1].transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)
    rounded = torch.from_numpy(pixels[..., ::-1].transpose(0, 3, 1, 2).copy()).float() / 255
    expected = network(rounded).detach().numpy()
    np.testing.assert_allclose(found.infer(pixels), expected, atol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (_Network((1, 3, 512)), r"must return predictions \[1, 6, N\] for 2 classes, found \[1, 3"),
        (_Network((1, 6, 7)), "fails on an image of 32x32"),
    ],
    ids=["layout", "size"],
)
def test_network_that_breaks_the_contract_is_an_error(network: nn.Module, said: str) -> None:
    with pytest.raises(GraphError, match=said):
        _adapt(network)


def test_example_of_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is written there: from a network in memory to a measured INT8 directory."""
    (example,) = re.findall(
        r"^```python\n(import torch\n.*?)```",
        GUIDE.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    for split in ("train", "val"):
        write_digits(tmp_path, split=split, images=48, size_px=96)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(GUIDE), "exec"), {"__name__": "example"})
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "22 blocks found"
    found = [line.split()[1] for line in said if line.startswith("mine ")]
    assert (found[0], found[-1]) == ("fp32", "int8")
    assert (tmp_path / "mine_int8_openvino_model/mine.xml").is_file()
