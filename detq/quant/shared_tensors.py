"""Tensors that convolutions alone read, and which of them meet in front of one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import openvino as ov

from detq.graph.surgery import CONVOLUTIONS, constant_value, producer

_CHANNELWISE = {"MaxPool", "Interpolate"}
"""Operations on each channel alone, which a positive factor passes through."""
HANDED_ON = _CHANNELWISE | {"Concat"}
_CHANNEL_AXES = (1, -3)


@dataclass(frozen=True)
class TensorReader:
    """A convolution that reads a tensor as its input channels from ``offset`` on."""

    convolution: ov.Node
    offset: int


@dataclass(frozen=True)
class ReadTensor:
    """The output of a node that only convolutions read."""

    node: ov.Node
    readers: tuple[TensorReader, ...]

    @property
    def name(self) -> str:
        """Of the node."""
        return str(self.node.get_friendly_name())

    @property
    def channels(self) -> int:
        """How many it has."""
        return int(self.node.get_output_shape(0)[1])

    @property
    def reader_names(self) -> set[str]:
        """Of the convolutions that read it."""
        return {reader.convolution.get_name() for reader in self.readers}


def tensors_that_share(model: ov.Model) -> Iterator[list[ReadTensor]]:
    """Groups of tensors that meet in front of convolutions, and so share one grid.

    Left out are groups that something else is read with, and those that only depthwise
    convolutions read, which have a grid for every channel anyway.
    """
    left = [
        ReadTensor(node, tuple(readers))
        for node in model.get_ordered_ops()
        if node.get_type_name() not in HANDED_ON | {"Constant", "Parameter"}
        and node.get_output_size() == 1
        and len(node.get_output_shape(0)) == 4
        and (readers := _readers(node))
    ]
    while left:
        group, names = [left.pop(0)], set[str]()
        while names != (names := set[str]().union(*(tensor.reader_names for tensor in group))):
            group += [tensor for tensor in left if names & tensor.reader_names]
            left = [tensor for tensor in left if not names & tensor.reader_names]
        convolutions = [reader.convolution for tensor in group for reader in tensor.readers]
        if _covers_inputs(group) and any(
            node.get_type_name() == "Convolution" for node in convolutions
        ):
            yield group


def _readers(node: ov.Node, offset: int = 0) -> list[TensorReader] | None:
    """The convolutions that read a node's channels; None if anything else does."""
    found = []
    for target in node.output(0).get_target_inputs():
        user, index = target.get_node(), target.get_index()
        more = None
        if user.get_type_name() in CONVOLUTIONS and constant_value(producer(user, 1)) is not None:
            more = [TensorReader(user, offset)]
        elif user.get_type_name() in _CHANNELWISE:
            more = _readers(user, offset)
        elif user.get_type_name() == "Concat" and user.get_attributes()["axis"] in _CHANNEL_AXES:
            before = sum(int(user.get_input_shape(other)[1]) for other in range(index))
            more = _readers(user, offset + before)
        if more is None:
            return None
        found += more
    return found


def _covers_inputs(group: Sequence[ReadTensor]) -> bool:
    """True if every input channel of every convolution that reads the group is one of its own."""
    covered, wanted = defaultdict[str, int](int), {}
    for tensor in group:
        for reader in tensor.readers:
            name = reader.convolution.get_name()
            covered[name] += tensor.channels
            wanted[name] = int(reader.convolution.get_input_shape(0)[1])
    return dict(covered) == wanted
