"""CFWS as a rewrite of the float detector graph that any quantizer can follow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.config import WeightsConfig
from detq.errors import GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import constant_value, consumers, producer
from detq.numerics.cfws import WeightSplit, split_center, split_residual

COARSE_SUFFIX = "/coarse"
SUM_SUFFIX = "/sum"

_SPLITS: dict[str, Callable[..., WeightSplit]] = {
    "cfws": split_center,
    "residual": split_residual,
}


@dataclass(frozen=True)
class SplitGraph:
    """A float detector graph with split convolutions: their names, and their coarse grids.

    ``coarse_steps`` maps the name of each coarse convolution to (O, 1, 1, 1) or (1, 1, 1, 1).
    """

    graph: DetectorGraph
    coarse_steps: Mapping[str, npt.NDArray[np.float32]]

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the convolutions that were split, in the order of the specification."""
        return tuple(name.removesuffix(COARSE_SUFFIX) for name in self.coarse_steps)


def split_graph(
    graph: DetectorGraph,
    config: WeightsConfig,
    *,
    limit_pairs: bool = False,
    layers: Collection[str] | None = None,
) -> SplitGraph:
    """Write ``Convolution(W)`` as ``Convolution(F) + Convolution(C)`` where the recipe says so.

    The convolutions are those that ``graph.spec`` calls re-parameterized, in ``config.parts``, of
    which ``layers`` may name some. The
    graph returned computes the same function in float and shares nothing with the one given.
    ``limit_pairs`` rounds coarse kernels so that they cannot overflow (:mod:`detq.numerics.cfws`).

    Raises GraphError if a re-parameterized convolution is missing or is not a "same" convolution
    with constant weights.
    """
    model = graph.model.clone()
    if config.split == "none":
        return SplitGraph(DetectorGraph(model, graph.spec), {})
    by_name = {node.get_friendly_name(): node for node in model.get_ops()}
    names = [conv.name for conv in graph.spec.reparameterized if conv.part in config.parts]
    if layers is not None:
        names = [name for name in names if name in layers]
    split = partial(
        _SPLITS[config.split],
        granularity=config.granularity,
        bits=config.bits,
        limit_pairs=limit_pairs,
    )
    steps = {}
    for name in names:
        if name not in by_name:
            raise GraphError(f"{graph.spec.name}: no operation is named {name!r}; cannot split it")
        steps[f"{name}{COARSE_SUFFIX}"] = _split_convolution(by_name[name], split)
    model.validate_nodes_and_infer_types()
    return SplitGraph(DetectorGraph(model, graph.spec), steps)


def rounds_fine_branch(quantizer: ov.Node) -> bool:
    """True for the quantizer between the fine convolution of a split and the sum."""
    fine = producer(quantizer).get_friendly_name()
    return any(user.get_friendly_name() == f"{fine}{SUM_SUFFIX}" for user in consumers(quantizer))


def _split_convolution(
    convolution: ov.Node, split_weight: Callable[..., WeightSplit]
) -> npt.NDArray[np.float32]:
    """Replace one (Group)Convolution by ``Add(Add(coarse, bias), fine)``; changes its model.

    Returns the step of the coarse kernel's grid.

    The bias stays with the coarse branch, whose values are the large ones: the runtime then adds
    the fine branch, rounded to INT8 on its own small range, to the coarse convolution's 32-bit
    accumulator.
    """
    name = convolution.get_friendly_name()
    weight = constant_value(producer(convolution, 1))
    if weight is None:
        raise GraphError(f"{name}: its weights are not constant; cannot split it")
    kernels = weight.reshape(-1, *weight.shape[-3:])  # groups join the output channels
    split = split_weight(np.array(kernels, np.float32))
    coarse_shape = (*weight.shape[:-2], *split.coarse.shape[-2:])
    _require_same_padding(convolution, kernels.shape[-2:])

    bias_add = _bias_add(convolution)
    targets = (bias_add or convolution).output(0).get_target_inputs()
    fine = _convolution_like(convolution, split.fine.reshape(weight.shape), name)
    coarse = _convolution_like(
        convolution, split.coarse.reshape(coarse_shape), f"{name}{COARSE_SUFFIX}"
    )
    convolution.output(0).replace(coarse.output(0))
    joined = ops.add(bias_add or coarse, fine)
    joined.set_friendly_name(f"{name}{SUM_SUFFIX}")
    for target in targets:
        target.replace_source_output(joined.output(0))
    return split.coarse_step


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


def _bias_add(convolution: ov.Node) -> ov.Node | None:
    users = consumers(convolution)
    if len(users) != 1 or users[0].get_type_name() != "Add":
        return None
    other = 1 if producer(users[0], 0).get_name() == convolution.get_name() else 0
    return users[0] if constant_value(producer(users[0], other)) is not None else None


def _require_same_padding(convolution: ov.Node, kernel: tuple[int, ...]) -> None:
    attributes = convolution.get_attributes()
    wanted = [d * (k - 1) // 2 for k, d in zip(kernel, attributes["dilations"], strict=True)]
    if any(side % 2 == 0 for side in kernel) or not (
        list(attributes["pads_begin"]) == list(attributes["pads_end"]) == wanted
    ):
        raise GraphError(
            f"{convolution.get_friendly_name()}: with kernel {tuple(kernel)} and padding "
            f"{list(attributes['pads_begin'])} its centre tap is off the output pixel; cannot split"
        )
