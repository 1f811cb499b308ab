"""Where FakeQuantize nodes go: NNCF decides, on the float graph, with decode and attention left
float.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import openvino as ov

from detq.errors import GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.parts import last_convolutions
from detq.graph.surgery import bypass, consumers, downstream
from detq.process import home_to_ask_for
from detq.quant.network import Image, Network, Stage
from detq.quant.pipeline import Seen, WantsNothing
from detq.quant.quantizers import SHARING_OPERATIONS, activation_nodes, activation_quantizers

_PURPOSE = "placing quantizers"


@dataclass(frozen=True)
class PlaceQuantizers(WantsNothing):
    """FakeQuantize nodes on weights and activations; the weights stay what they are.

    ``preset`` is NNCF's: signed activations get symmetric grids under ``performance``, asymmetric
    ones under ``mixed``. ``keep_ranges`` says that some of the ranges that NNCF chooses stay: it
    sees all of at most ``images`` then, otherwise one. ``bias_correction`` is NNCF's own, which
    belongs to its own ranges. ``overflow_fix`` is NNCF's, too.
    """

    preset: Literal["performance", "mixed"] = "mixed"
    decode: bool = False
    per_channel: bool = True
    keep_ranges: bool = False
    bias_correction: Literal["none", "fast", "accurate"] = "none"
    overflow_fix: Literal["disable", "first_layer_only", "enable"] = "disable"
    images: int = 300
    name: ClassVar[str] = "place quantizers"
    stage: ClassVar[Stage] = Stage.PLACED
    keeps_float: ClassVar[bool] = True

    def apply(self, network: Network, seen: Seen) -> Network:
        """Let NNCF place."""
        sample: Iterable[Image] = seen.statistics.sample(_PURPOSE, 1)
        if self.keep_ranges:
            sample = seen.statistics.images(_PURPOSE)
        model = self.place(network.graph, sample)
        model.set_friendly_name(network.spec.name)
        quantizers = activation_quantizers(model, network.splits)
        did = f"{len(quantizers)} on activations"
        return replace(network, model=model, quantizers=quantizers, did=did)

    def place(self, graph: DetectorGraph, images: Iterable[Image]) -> ov.Model:
        """A copy of a float graph with quantizers.

        ``images`` float32 [1, 3, H, W] are iterated over more than once, one at a time in memory.
        """
        nncf = _nncf()
        parameters = nncf.quantization.advanced_parameters.QuantizationParameters
        advanced = nncf.AdvancedQuantizationParameters(
            disable_bias_correction=self.bias_correction == "none",
            weights_quantization_params=parameters(per_channel=self.per_channel),
            overflow_fix=nncf.OverflowFix(self.overflow_fix),
            backend_params={"compress_weights": False},
        )
        ignored = [] if self.decode else decode_nodes(graph)
        with quiet_nncf():
            placed: ov.Model = nncf.quantize(
                graph.model.clone(),
                nncf.Dataset(images),
                preset=nncf.QuantizationPreset(self.preset),
                target_device=nncf.TargetDevice.CPU,
                subset_size=self.images,
                fast_bias_correction=self.bias_correction != "accurate",
                ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
                advanced_parameters=advanced,
            )
        if not self.decode:
            leave_attention_float(placed)
        return placed


def decode_nodes(graph: DetectorGraph) -> list[str]:
    """Names of the operations behind the last feature convolutions: biases, DFL, anchors, …

    A convolution that takes the expected value of a softmax (DFL, as some exporters write it) is
    part of the decode. Raises GraphError if the graph has no other convolution.
    """
    last = last_convolutions(graph.model)
    if not last:
        raise GraphError(f"{graph.spec.name}: no convolution in the graph; nothing to quantize")
    return sorted(
        node.get_friendly_name()
        for node in downstream(last)
        if node.get_type_name() not in ("Result", "Constant")
    )


def leave_attention_float(model: ov.Model) -> None:
    """Take out the quantizers that a transformer reads where no runtime computes in INT8; changes
    the model.

    That is attention which OpenVINO computes as one operation, normalization, and the residual sums
    in front of it. Products of two activations that stayed apart can be INT8, and keep what NNCF
    gives them. Rounding what they read saves nothing and costs accuracy:
    1 dB behind the encoder of a small RT-DETR.
    """
    for node in reversed(activation_nodes(model)):  # a sum is known by what is left behind it
        if all(_is_float_in_transformers(user) for user in _final_users(node)):
            bypass(node)
    model.validate_nodes_and_infer_types()


def _final_users(node: ov.Node) -> Iterator[ov.Node]:
    """Those that read its tensor, also through operations that hand it on."""
    for user in consumers(node):
        if user.get_type_name() in SHARING_OPERATIONS:
            yield from _final_users(user)
        else:
            yield user


def _is_float_in_transformers(node: ov.Node) -> bool:
    kind = node.get_type_name()
    if kind == "Add":
        return any(user.get_type_name() == "MVN" for user in consumers(node))
    return kind in ("ScaledDotProductAttention", "MVN")


@contextlib.contextmanager
def quiet_nncf() -> Iterator[None]:
    """NNCF logs every node it leaves out and draws a bar of its own on stdout; neither helps
    here.
    """
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _nncf() -> Any:
    """Imported here because it takes seconds, which ``detq --help`` need not wait for."""
    with home_to_ask_for():
        import nncf  # noqa: PLC0415

    return nncf
