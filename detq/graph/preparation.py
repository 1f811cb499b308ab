"""What a file does to its input by itself before the first layer: colour order, scale, shift.

Some exporters put these into the graph. They are not searched for by operation, of which there are
many, but tried on images of one colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.errors import DetqError
from detq.graph.execute import compile_exact
from detq.graph.float32 import in_float32
from detq.graph.layouts import Pixels
from detq.graph.surgery import consumers

_PREPARING = frozenset(
    {
        *("Add", "Concat", "Convert", "Divide", "Gather", "Multiply", "Reshape", "Slice"),
        *("Split", "StridedSlice", "Subtract", "Transpose", "Unsqueeze", "VariadicSplit"),
    }
)
_SIDE = 64
_OF_255 = 0.1
"""A factor below it is 1/255, perhaps divided by a standard deviation, not a deviation alone."""


@dataclass(frozen=True)
class Preparation:
    """``turned``: the order of colours is reversed; ``scale``: the smallest factor on a colour.

    ``normalizes`` if something is multiplied or subtracted at all.
    """

    turned: bool = False
    normalizes: bool = False
    scale: float = 1.0

    @property
    def unit(self) -> float:
        """The largest value of pixels that become 0..1, or a mean and deviation of it."""
        if not self.normalizes or _OF_255 <= self.scale <= 1 / _OF_255:
            return 1.0
        return 255.0 if self.scale < _OF_255 else 1 / 255

    def left(self, pixels: Pixels) -> Pixels:
        """What is still to be done for a network that was trained on ``pixels``."""
        bgr = pixels.bgr ^ self.turned
        if not self.normalizes:
            mean, std = pixels.mean, pixels.std
            if self.turned:
                mean, std = mean[::-1], std[::-1]
            return Pixels(bgr, pixels.largest, mean, std)
        return Pixels(bgr, 255.0 if self.scale < _OF_255 else 1.0)


def preparation(model: ov.Model) -> Preparation:
    """Of a graph as it stands in the file: OpenVINO's conversion moves factors into weights."""
    own = model.clone()
    images = [
        each
        for each in own.get_parameters()
        if each.get_partial_shape().rank.is_static and len(each.get_partial_shape()) == 4
    ]
    if len(images) != 1:
        return Preparation()
    shape = images[0].get_partial_shape()
    sides = [_SIDE if side.is_dynamic else side.get_length() for side in list(shape)[2:]]
    try:
        # Alone, for the rest of the graph may insist on a batch of several images.
        through = ov.Model([ops.result(_preparing(images[0])[-1].output(0))], images, "all")
        images[0].set_partial_shape(ov.PartialShape([1, 3, *sides]))
        in_float32(through, "")
        given, *prepared = filter(_is_image, _preparing(images[0]))
        if not prepared:
            return Preparation()
        ends = [ops.result(prepared[-1].output(0))]
        compiled = compile_exact(ov.Model(ends, [given], "preparation"))
        colours = np.concatenate([np.zeros((1, 3)), np.eye(3)]).astype(np.float32)
        answers = [
            np.asarray(compiled(np.broadcast_to(c[None, :, None, None], (1, 3, *sides)).copy())[0])
            for c in colours
        ]
    except (RuntimeError, ValueError, DetqError):
        return Preparation()
    return _told(answers)


def _preparing(image: ov.Node) -> list[ov.Node]:
    """The image and the operations that it goes through alone."""
    found = [image]
    while True:
        users = {user.get_name(): user for user in consumers(found[-1])}
        if len(users) != 1:
            return found
        node = next(iter(users.values()))
        if node.get_type_name() not in _PREPARING:
            return found
        found.append(node)


def _is_image(node: ov.Node) -> bool:
    return len(node.outputs()) == 1 and list(node.get_output_partial_shape(0))[1:2] == [3]


def _told(answers: list[npt.NDArray[np.float32]]) -> Preparation:
    """From what becomes of black and of each colour alone."""
    if any(a.ndim != 4 or np.ptp(a, (2, 3)).max() > 1e-6 for a in answers):
        return Preparation()
    black, *colours = (answer[0, :, 0, 0] for answer in answers)
    factors = np.stack(colours, 1) - black[:, None]  # [made, given]
    order = np.abs(factors).argmax(1).tolist()
    if order not in ([0, 1, 2], [2, 1, 0]):
        return Preparation()
    strengths = factors[np.arange(3), order]
    return Preparation(
        turned=order == [2, 1, 0],
        normalizes=bool(np.abs(strengths - 1).max() > 1e-3 or np.abs(black).max() > 1e-6),
        scale=float(strengths.min()),
    )
