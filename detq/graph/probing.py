"""Trying a network of unknown layout on made-up images, before anything is believed of it."""

from __future__ import annotations

from functools import cache, cached_property

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.graph.decode import boxes_and_scores
from detq.graph.execute import compile_exact
from detq.graph.layouts import Layout, Outputs, Pixels
from detq.graph.plausibility import LEAST_SHARE, LEAST_SHARE_FREE, implausible
from detq.graph.preparation import Preparation
from detq.graph.surgery import CONVOLUTIONS, nodes_of_type
from detq.records import SizeHW

Array = npt.NDArray[np.float32]

_BLOCK_PX = 16
_IMAGES = 2


def made_up_images(size_hw: SizeHW) -> list[Array]:
    """float32 [1, 3, H, W] in 0..1: coloured blocks with some noise, the same each time."""
    random = np.random.default_rng(0)
    height, width = size_hw
    blocks = [-(-side // _BLOCK_PX) for side in size_hw]
    images = []
    for _ in range(_IMAGES):
        coarse = np.kron(random.random((3, *blocks)), np.ones((1, _BLOCK_PX, _BLOCK_PX)))
        fine = random.random((3, height, width))
        images.append((0.8 * coarse[:, :height, :width] + 0.2 * fine)[None].astype(np.float32))
    return images


def stem_response(model: ov.Model, built_in: Preparation) -> float | None:
    """How strongly the first convolution answers to pixels of 0..1; None if there is none.

    They are 0..1 behind what the graph does by itself (``built_in``). The median over its channels
    of the standard deviation over an image. A network that was trained on pixels of 0..255 answers
    some hundred times less to such of 0..1 than one that was trained on these: training brings the
    answers themselves to a like size, through BatchNorm.
    """
    first = next(iter(nodes_of_type(model, *CONVOLUTIONS)), None)
    shape = model.inputs[0].get_partial_shape()
    if first is None or shape.is_dynamic or shape[1].get_length() != 3:
        return None
    own = model.clone()
    stem = next(iter(nodes_of_type(own, *CONVOLUTIONS)))
    used = [
        each for each in own.get_parameters() if each.get_name() == own.inputs[0].node.get_name()
    ]
    compiled = compile_exact(ov.Model([ops.result(stem.output(0))], used, "stem"))
    size_hw = (shape[2].get_length(), shape[3].get_length())
    image = made_up_images(size_hw)[0] * np.float32(built_in.unit)
    answer = np.asarray(compiled(image)[0])[0]
    return float(np.median(answer.reshape(answer.shape[0], -1).std(1)))


class ProbedNetwork:
    """A network as its file has it, at work on made-up images under one layout after another."""

    def __init__(
        self, model: ov.Model, outputs: Outputs, size_hw: SizeHW, built_in: Preparation
    ) -> None:
        self._model = model
        self._built_in = built_in
        self._outputs = outputs
        self._size_hw = size_hw
        self._compiled = compile_exact(model)
        self._raw = cache(self._run)

    @property
    def _plain(self) -> list[list[Array]]:
        """What it gives for RGB in 0..1."""
        return self._raw(self._built_in.left(Pixels()))

    @cached_property
    def activated(self) -> bool:
        """True if everything that it gives, or its scores if they are apart, lies in 0..1."""
        if self._outputs.activated is not None:
            return self._outputs.activated
        values = [value for image in self._plain for value in image]
        if self._outputs.form == "queries":
            values = [image[1] for image in self._plain]
        elif self._outputs.form in ("distributions", "faces"):
            values = [value for value in values if value.shape[-1] == self._outputs.width]
        return all(bool(((value >= 0) & (value <= 1)).all()) for value in values)

    @cached_property
    def objectness_is_one(self) -> bool:
        """Of every prediction: YOLOv6 from 0.2 on writes a constant there."""
        if self._outputs.form != "rows":
            return False
        return all(
            bool((image[0][..., 4] == 1).all())
            for image in self._raw(self._built_in.left(Pixels()))
        )

    @cached_property
    def stem(self) -> float | None:
        """See :func:`stem_response`."""
        return stem_response(self._model, self._built_in)

    def doubt(self, layout: Layout) -> str | None:
        """Why what the layout makes of the outputs cannot be boxes and scores; None if it can."""
        raw = self._raw(self._built_in.left(layout.pixels))
        parameters = [ops.parameter(list(value.shape), np.float32) for value in raw[0]]
        ports = [parameter.output(0) for parameter in parameters]
        boxes, scores = boxes_and_scores(
            ports, layout, self._outputs, self._size_hw, activated=self.activated
        )
        table = ops.result(ops.concat([boxes, scores], 1))
        decode = compile_exact(ov.Model([table], parameters, "decode"))
        predictions = [np.array(decode(values)[0][0]) for values in raw]
        free = layout.decode in ("shares", "sides")  # which need not be positive by themselves
        strides = () if self._outputs.form == "queries" else self._outputs.strides
        least = LEAST_SHARE_FREE if free else LEAST_SHARE
        return implausible(predictions, strides, self._size_hw, least_positive=least)

    def _run(self, pixels: Pixels) -> list[list[Array]]:
        """The network's own outputs for each image."""
        found = []
        for image in made_up_images(self._size_hw):
            answer = self._compiled(prepared(image, pixels))
            found.append([np.array(answer[index]) for index in range(len(self._model.outputs))])
        return found


def prepared(rgb: Array, pixels: Pixels) -> Array:
    """RGB in 0..1, float32 [1, 3, H, W] -> what a network wants that was trained on ``pixels``."""
    ordered = rgb[:, ::-1] if pixels.bgr else rgb
    mean, std = (np.reshape(each, (1, 3, 1, 1)) for each in (pixels.mean, pixels.std))
    return np.ascontiguousarray((ordered * pixels.largest - mean) / std, np.float32)
