"""Backbone, neck and head, and re-parameterized blocks, in graphs whose names do not tell.

Exporters may number operations instead of naming them. Then the structure has to do: where the
levels part, what upsampling feeds, and how large the centre of a kernel is against its surround.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
import openvino as ov

from detq.graph.surgery import (
    CONVOLUTIONS,
    constant_value,
    downstream,
    nodes_of_type,
    producer,
    upstream,
)
from detq.numerics.cfws import center_to_surround_ratio
from detq.records import ReparamConvolution, part_of

LEAST_RATIO = 2.0
"""Median centre-to-surround ratio from which a 3x3 convolution counts as re-parameterized.

Two of 70 trained RepVGG blocks at hand have less; their detectors' plain 3x3 convolutions stay
below 1.4. A wrong one costs nothing but a split that the measurements decide on: it computes the
same.
"""
LEAST_DEPTHWISE_RATIO = 4.0
"""Plain depthwise kernels are peaked by themselves: up to 3.6 in YOLOv6-Lite."""
_UPSAMPLING = ("Interpolate", "ConvolutionBackpropData", "GroupConvolutionBackpropData")


def last_convolutions(model: ov.Model) -> list[ov.Node]:
    """The convolutions that no other one follows: those that predict.

    One that takes the expected value of a softmax (DFL, as some exporters write it) is no
    convolution in this sense but decode.
    """
    convolutions = [node for node in nodes_of_type(model, *CONVOLUTIONS) if not _averages(node)]
    names = _names(convolutions)
    return [
        node for node in convolutions if not any(d.get_name() in names for d in downstream([node]))
    ]


def _averages(convolution: ov.Node) -> bool:
    above = producer(convolution)
    while above.get_type_name() in ("Transpose", "Reshape"):
        above = producer(above)
    return bool(above.get_type_name() == "Softmax")


def name_parts(model: ov.Model) -> None:
    """Put the part before the name of every convolution if no name tells one; changes the model.

    The head of a level is what lies between the last tensor that all its predictions share and
    them. Of the rest, what depends on something upsampled is neck, the others are backbone.
    """
    convolutions = nodes_of_type(model, *CONVOLUTIONS)
    if any(part_of(node.get_friendly_name()) for node in convolutions):
        return
    head = set(_head_names(model))
    neck = _names(downstream(nodes_of_type(model, *_UPSAMPLING)))
    for node in convolutions:
        name = node.get_name()
        part = "head" if name in head else "neck" if name in neck else "backbone"
        node.set_friendly_name(f"{part}/{node.get_friendly_name().lstrip('/')}")


def _head_names(model: ov.Model) -> Iterator[str]:
    levels = defaultdict(list)
    for node in last_convolutions(model):
        levels[tuple(node.get_output_shape(0)[2:])].append(node)
    order = [node.get_name() for node in model.get_ordered_ops()]
    for predicting in levels.values():
        yield from _names(predicting)
        above = [_names(upstream([node])) for node in predicting]
        shared = [name for name in order if all(name in names for names in above)]
        if len(predicting) > 1 and shared:
            root = next(node for node in model.get_ops() if node.get_name() == shared[-1])
            below = _names(downstream([root]))
            yield from (name for names in above for name in names & below)


def reparameterized_convolutions(model: ov.Model) -> tuple[ReparamConvolution, ...]:
    """By YOLOv6's names (``rbr_reparam``); where there are none, by the kernels themselves.

    Those are 3x3, of stride 1 or 2, with padding that keeps the centre on the output pixel, and
    with a centre-to-surround ratio of at least :data:`LEAST_RATIO`.
    """
    convolutions = nodes_of_type(model, *CONVOLUTIONS)
    named = [node for node in convolutions if "rbr_reparam" in node.get_friendly_name()]
    found = named or [node for node in convolutions if _is_peaked(node)]
    parts = [(node.get_friendly_name(), part_of(node.get_friendly_name())) for node in found]
    return tuple(ReparamConvolution(name, part) for name, part in parts if part is not None)


def _is_peaked(node: ov.Node) -> bool:
    kernel, geometry = constant_value(producer(node, 1)), node.get_attributes()
    if kernel is None or kernel.shape[-2:] != (3, 3) or kernel.dtype.kind != "f":
        return False
    keeps_centre = all(
        list(geometry[key]) == [1, 1] for key in ("pads_begin", "pads_end", "dilations")
    )
    if not keeps_centre or max(geometry["strides"]) > 2:
        return False
    kernels = np.asarray(kernel, np.float32).reshape(-1, *kernel.shape[-3:])
    least = LEAST_DEPTHWISE_RATIO if kernels.shape[1] == 1 else LEAST_RATIO
    return center_to_surround_ratio(kernels) >= least


def _names(nodes: Iterable[ov.Node]) -> set[str]:
    return {node.get_name() for node in nodes}
