"""CFWS as a rewrite of the float graph that any quantizer can follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from detq.config import WeightsConfig
from detq.errors import GraphError
from detq.graph.layers import ConvLayer, layer_of
from detq.graph.surgery import nodes_by_name
from detq.numerics.cfws import WeightSplit, split_center, split_residual
from detq.quant.network import Network, SplitConvolution, Stage
from detq.quant.pipeline import Seen, WantsNothing

_SPLITS: dict[str, Callable[..., WeightSplit]] = {
    "cfws": split_center,
    "residual": split_residual,
}


@dataclass(frozen=True)
class SplitWeights(WantsNothing):
    """Write ``Convolution(W)`` as ``Convolution(F) + Convolution(C)``, as the configuration says.

    The convolutions are those that the spec calls re-parameterized, in ``config.parts``.
    ``limit_pairs`` rounds coarse kernels so that they cannot overflow (:mod:`detq.numerics.cfws`).

    Raises GraphError if a re-parameterized convolution is missing or is not a "same" convolution
    with constant weights.
    """

    config: WeightsConfig
    limit_pairs: bool = False
    name: ClassVar[str] = "split weights"
    stage: ClassVar[Stage] = Stage.FLOAT
    keeps_float: ClassVar[bool] = False

    def apply(self, network: Network, seen: Seen) -> Network:
        """Split them."""
        found = self.split(network)
        return replace(found, did=f"{len(found.splits)} re-parameterized convolutions")

    def split(self, network: Network) -> Network:
        """The same function with these convolutions split."""
        model = network.model.clone()
        split_weight = partial(
            _SPLITS[self.config.split],
            granularity=self.config.granularity,
            bits=self.config.bits,
            limit_pairs=self.limit_pairs,
        )
        splits = [split_convolution(layer, split_weight) for layer in self._layers(network, model)]
        model.validate_nodes_and_infer_types()
        return replace(network, float_model=model, model=model, splits=tuple(splits))

    def _layers(self, network: Network, model: ov.Model) -> list[ConvLayer]:
        """Those of a copy to split, in the order of the spec."""
        by_name = nodes_by_name(model)
        found = []
        for convolution in network.spec.reparameterized:
            if convolution.part in self.config.parts:
                if convolution.name not in by_name:
                    raise GraphError(
                        f"{network.spec.name}: no operation is named {convolution.name!r}; cannot "
                        "split it"
                    )
                found.append(layer_of(by_name[convolution.name]))
        return found


def split_convolution(
    layer: ConvLayer, split_weight: Callable[..., WeightSplit]
) -> SplitConvolution:
    """Replace one (Group)Convolution by ``Add(Add(coarse, bias), fine)``; changes its model.

    The bias stays with the coarse branch, whose values are the large ones: the runtime then adds
    the fine branch, rounded to INT8 on its own small range, to the coarse convolution's 32-bit
    accumulator.
    """
    split, shape = split_weight(layer.kernels), layer.weight.shape
    names = SplitConvolution(
        layer.name, f"{layer.name}/coarse", f"{layer.name}/sum", split.coarse_step
    )
    _require_same_padding(layer)
    targets = layer.end.output(0).get_target_inputs()
    fine = _convolution_like(layer.convolution, split.fine.reshape(shape), names.fine)
    coarse_shape = (*shape[:-2], *split.coarse.shape[-2:])
    coarse = _convolution_like(layer.convolution, split.coarse.reshape(coarse_shape), names.coarse)
    layer.convolution.output(0).replace(coarse.output(0))
    joined = ops.add(layer.bias or coarse, fine)
    joined.set_friendly_name(names.total)
    for target in targets:
        target.replace_source_output(joined.output(0))
    return names


def _convolution_like(convolution: ov.Node, weight: np.ndarray, name: str) -> ov.Node:
    """A convolution with other weights; a 1x1 kernel needs no padding and no dilation."""
    attributes = convolution.get_attributes()
    point = weight.shape[-2:] == (1, 1)
    build = ops.group_convolution if weight.ndim == 5 else ops.convolution
    constant = ops.constant(np.ascontiguousarray(weight), dtype=np.float32)
    constant.set_friendly_name(f"{name}.weight")
    node = build(
        convolution.input_value(0),
        constant,
        attributes["strides"],
        [0, 0] if point else attributes["pads_begin"],
        [0, 0] if point else attributes["pads_end"],
        [1, 1] if point else attributes["dilations"],
    )
    node.set_friendly_name(name)
    return node


def _require_same_padding(layer: ConvLayer) -> None:
    attributes = layer.convolution.get_attributes()
    wanted = [d * (k - 1) // 2 for k, d in zip(layer.kernel, attributes["dilations"], strict=True)]
    if any(side % 2 == 0 for side in layer.kernel) or not (
        list(attributes["pads_begin"]) == list(attributes["pads_end"]) == wanted
    ):
        raise GraphError(
            f"{layer.name}: with kernel {layer.kernel} and padding "
            f"{list(attributes['pads_begin'])} its centre tap is off the output pixel; cannot split"
        )
