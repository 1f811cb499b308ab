"""Small real ONNX detectors in every layout, and what they compute, worked out apart from detq.

All share one network: five strided convolutions, a feature pyramid, two branches per level. Its raw
maps are also outputs of a file of their own, which ONNX Runtime runs; numpy decodes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import openvino as ov
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[np.float32]
STRIDES = (8, 16, 32)
CLASSES = 3
SIZE_HW = (64, 96)
ANCHORS = {
    "yolov5": [[(10, 13), (16, 30), (33, 23)], [(30, 61), (62, 45), (59, 119)],
               [(116, 90), (156, 198), (373, 326)]],
    "yolov7": [[(12, 16), (19, 36), (40, 28)], [(36, 75), (76, 55), (72, 146)],
               [(142, 110), (192, 243), (459, 401)]],
    "p6": [[(19, 27), (44, 40), (38, 94)], [(96, 68), (86, 152), (180, 137)],
           [(140, 301), (303, 264), (238, 542)], [(436, 615), (739, 380), (925, 792)]],
}  # fmt: skip
PEAKED = ("stage1", "fuse")
"""Convolutions whose centre taps are large, as re-parameterization makes them."""


@dataclass
class Builder:
    """Nodes and weights of a graph; every method returns the name of the value it makes."""

    named: bool
    size_hw: tuple[int, int] = SIZE_HW
    strides: Sequence[int] = STRIDES
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    outputs_of: dict[str, str] = field(default_factory=dict)

    def add(
        self, kind: str, inputs: Sequence[str], *, name: str = "", count: int = 1, **attributes: Any
    ) -> Any:
        label = name if self.named and name else f"{kind}_{len(self.nodes)}"
        outputs = [f"{label}_out{index}" for index in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, label, **attributes))
        return outputs[0] if count == 1 else outputs

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def convolution(
        self,
        value: str,
        inputs: int,
        outputs: int,
        *,
        name: str,
        kernel: int = 3,
        stride: int = 1,
        peaked: bool = False,
        bias: float = 0.0,
    ) -> str:
        weight = self.random.normal(size=(outputs, inputs, kernel, kernel)) / (inputs * kernel)
        if peaked:
            weight[:, :, kernel // 2, kernel // 2] *= 12
        biases = self.constant(np.full(outputs, bias) + self.random.normal(size=outputs) / 4)
        pads = [kernel // 2] * 4
        return str(self.add(
            "Conv", [value, self.constant(weight), biases], name=name,
            kernel_shape=[kernel, kernel], strides=[stride, stride], pads=pads,
        ))  # fmt: skip

    def scale_first_kernel(self, factor: float) -> None:
        index = next(i for i, weight in enumerate(self.weights) if len(weight.dims) == 4)
        kernel = numpy_helper.to_array(self.weights[index])
        scaled = (kernel * factor).astype(np.float32)
        self.weights[index] = numpy_helper.from_array(scaled, self.weights[index].name)

    def called(self, value: str, name: str) -> str:
        """The same value under that name, for an output."""
        self.nodes.append(helper.make_node("Identity", [value], [name], f"name_{name}"))
        return name

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        return str(self.add("Reshape", [value, self.constant(shape, np.int64)]))

    def transpose(self, value: str, order: Sequence[int]) -> str:
        return str(self.add("Transpose", [value], perm=list(order)))

    def split(self, value: str, sizes: Sequence[int], axis: int) -> list[str]:
        lengths = self.constant(sizes, np.int64)
        return list(self.add("Split", [value, lengths], count=len(sizes), axis=axis))


def network(
    build: Builder,
    image: str,
    *,
    columns: int,
    head: str,
    focus: bool,
    pixels: float = 1.0,
) -> list[str]:
    """[1, columns, h, w] per stride; ``head`` names the branches (``reg``, ``cls``).

    The first layer answers to ``pixels`` as training makes it.
    """

    def block(value: str, i: int, o: int, path: str, *, stride: int = 1) -> str:
        peaked = any(path.endswith(end) for end in PEAKED)
        made = build.convolution(value, i, o, name=f"/{path}/Conv", stride=stride, peaked=peaked)
        return str(build.add("Relu", [made]))

    def up(value: str) -> str:
        scales = build.constant([1, 1, 2, 2])
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
        return str(build.add("Resize", [value, "", scales], nearest_mode="floor", **modes))

    def joined(*values: str) -> str:
        return str(build.add("Concat", values, axis=1))

    if focus:
        image = joined(
            *(_every_second(build, image, row, column) for column in (0, 1) for row in (0, 1))
        )
        first = block(image, 12, 8, "backbone/stem")
    else:
        first = block(image, 3, 8, "backbone/stem", stride=2)
    build.scale_first_kernel(1 / pixels)
    second = block(first, 8, 8, "backbone/stage1", stride=2)
    c3 = block(second, 8, 12, "backbone/stage2", stride=2)
    c4 = block(c3, 12, 12, "backbone/stage3", stride=2)
    c5 = block(c4, 12, 12, "backbone/stage4", stride=2)
    p4 = block(joined(up(c5), c4), 24, 12, "neck/fuse")
    p3 = block(joined(up(p4), c3), 24, 12, "neck/up3")
    raw = []
    features = {8: p3, 16: p4, 32: c5}
    if 4 in build.strides:
        features[4] = block(joined(up(p3), second), 20, 12, "neck/up2")
    for stride in (64, 128)[: max(build.strides) // 64]:
        features[stride] = block(features[stride // 2], 12, 12, f"neck/down{stride}", stride=2)
    for index, feature in enumerate(features[stride] for stride in build.strides):
        stem = block(feature, 12, 12, f"{head}/stems.{index}")
        if columns > 5 + CLASSES:  # coupled: three anchors
            raw.append(
                build.convolution(stem, 12, columns, name=f"/{head}/m.{index}/Conv", kernel=1)
            )
            continue
        branches = [
            build.convolution(
                block(stem, 12, 8, f"{head}/{kind}_convs.{index}"), 8, outputs,
                name=f"/{head}/{kind}_preds.{index}/Conv", kernel=1, bias=bias,
            )
            for kind, outputs, bias in (("reg", 4, 0.5), ("obj", 1, 0), ("cls", CLASSES, 0))
        ]  # fmt: skip
        raw.append(joined(*branches))
    return raw


def _every_second(build: Builder, image: str, row: int, column: int) -> str:
    inputs = [[row, column], [10**6, 10**6], [2, 3], [2, 2]]
    return str(build.add("Slice", [image, *(build.constant(each, np.int64) for each in inputs)]))


def grid(
    size_hw: tuple[int, int], per_cell: int = 1, strides: Sequence[int] = STRIDES
) -> tuple[Array, Array]:
    """Cells [N, 2] (column, row) and strides [N, 1]."""
    cells, steps = [], []
    for stride in strides:
        height, width = size_hw[0] // stride, size_hw[1] // stride
        own = [(x, y) for _ in range(per_cell) for y in range(height) for x in range(width)]
        cells.extend(own)
        steps.extend([stride] * len(own))
    return np.array(cells, np.float32), np.array(steps, np.float32)[:, None]


def save(
    build: Builder,
    path: Path,
    outputs: Sequence[str],
    *,
    size: Sequence[int | str] | None = None,
    batch: int | str = 1,
    inputs: Mapping[str, Sequence[int]] | None = None,
    whole: Mapping[str, Sequence[int | str]] | None = None,
    metadata: Mapping[str, str] | None = None,
    image: str = "images",
    whole_outputs: Sequence[str] = (),
) -> Path:
    """``inputs`` and ``whole`` are further ones, of floats and of whole numbers."""
    ports = [
        helper.make_tensor_value_info(
            image, TensorProto.FLOAT, [batch, 3, *(size or build.size_hw)]
        )
    ]
    for name, shape in (inputs or {}).items():
        ports.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    for name, sides in (whole or {}).items():
        ports.append(helper.make_tensor_value_info(name, TensorProto.INT64, sides))
    made = [
        helper.make_tensor_value_info(
            name, TensorProto.INT64 if name in whole_outputs else TensorProto.FLOAT, None
        )
        for name in outputs
    ]
    graph = helper.make_graph(build.nodes, "tiny", ports, made, build.weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("TRT", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, path)
    return path


def raw_maps(path: Path, images: Array) -> list[Array]:
    """What the network of :func:`network` computes, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {"images": images})]


def run(model: ov.Model, image: Array) -> Array:
    """The first output, in float32."""
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(image)[0])


def sigmoid(values: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-values)), np.float32)


def rows(maps: Sequence[Array], per_cell: int = 1) -> Array:
    """[1, per_cell * C, h, w] per level -> [N, C], level by level, anchor by anchor."""
    tables = []
    for level in maps:
        _, channels, height, width = level.shape
        apart = level.reshape(per_cell, channels // per_cell, height * width)
        tables.append(apart.transpose(0, 2, 1).reshape(-1, channels // per_cell))
    return np.concatenate(tables)


def exponential(
    table: Array, size_hw: tuple[int, int] = SIZE_HW, strides: Sequence[int] = STRIDES
) -> Array:
    """[N, 4] -> centre and size in pixels, as anchor-free YOLOs do."""
    cells, steps = grid(size_hw, strides=strides)
    return np.concatenate([(table[:, :2] + cells) * steps, np.exp(table[:, 2:4]) * steps], 1)


def anchored(
    table: Array,
    anchors: Sequence[Sequence[tuple[int, int]]],
    size_hw: tuple[int, int] = SIZE_HW,
    strides: Sequence[int] = STRIDES,
) -> Array:
    """[N, 4] of values after the sigmoid -> centre and size in pixels."""
    cells, steps = grid(size_hw, 3, strides)
    sizes = np.concatenate([
        np.repeat(np.array(level, np.float32), size_hw[0] // s * (size_hw[1] // s), 0)
        for level, s in zip(anchors, strides, strict=True)
    ])  # fmt: skip
    return np.concatenate(
        [(table[:, :2] * 2 - 0.5 + cells) * steps, (table[:, 2:4] * 2) ** 2 * sizes], 1
    )


def contract(boxes: Array, scores: Array) -> Array:
    """[N, 4] and [N, nc] -> [1, 4 + nc, N]."""
    return np.concatenate([boxes, scores], 1).T[None]


# The tails: what each exporter puts behind the network.


def table_of(build: Builder, raw: Sequence[str]) -> str:
    """[1, 5 + nc, N] of all levels."""
    flat = [
        build.reshape(value, [1, 5 + CLASSES, build.size_hw[0] // s * (build.size_hw[1] // s)])
        for value, s in zip(raw, build.strides, strict=True)
    ]
    return str(build.add("Concat", flat, axis=2))


def decoded(build: Builder, boxes: str) -> str:
    """[1, 4, N] raw -> centre and size, with the grid as constants."""
    cells, steps = grid(build.size_hw, strides=build.strides)
    centre, size = build.split(boxes, [2, 2], 1)
    step = build.constant(steps.T[None])
    moved = build.add("Add", [centre, build.constant(cells.T[None])])
    scaled = [build.add("Mul", [each, step]) for each in (moved, build.add("Exp", [size]))]
    return str(build.add("Concat", scaled, axis=1))


def corners(build: Builder, boxes: str) -> str:
    centre, size = build.split(boxes, [2, 2], 1)
    half = build.add("Mul", [size, build.constant(0.5)])
    low, high = build.add("Sub", [centre, half]), build.add("Add", [centre, half])
    return str(build.add("Concat", [low, high], axis=1))


def dense(build: Builder, raw: Sequence[str], *, objectness: bool, decode: bool = True) -> str:
    """[1, N, 5 + nc] as YOLOv6 and YOLOX write it."""
    reg, obj, cls = build.split(table_of(build, raw), [4, 1, CLASSES], 1)
    boxes = decoded(build, reg) if decode else reg
    count = len(grid(build.size_hw, strides=build.strides)[0])
    sure = build.add("Sigmoid", [obj]) if objectness else build.constant(np.ones((1, 1, count)))
    parts = [boxes, sure, build.add("Sigmoid", [cls])]
    return build.transpose(build.add("Concat", parts, axis=1), [0, 2, 1])


def levels(build: Builder, raw: Sequence[str]) -> list[str]:
    """[1, 3, h, w, 5 + nc] per stride, not decoded."""
    made = []
    for value, stride in zip(raw, build.strides, strict=True):
        shape = [1, 3, 5 + CLASSES, build.size_hw[0] // stride, build.size_hw[1] // stride]
        made.append(build.transpose(build.reshape(value, shape), [0, 1, 3, 4, 2]))
    return made


def boxes_and_scores(build: Builder, raw: Sequence[str]) -> tuple[str, str]:
    """Corners [1, N, 4] and scores [1, nc, N]."""
    reg, _, cls = build.split(table_of(build, raw), [4, 1, CLASSES], 1)
    boxes = build.transpose(corners(build, decoded(build, reg)), [0, 2, 1])
    return boxes, str(build.add("Sigmoid", [cls]))


def decoded_columns(build: Builder, raw: Sequence[str]) -> list[str]:
    """[1, 4 + nc, N], decoded: as YOLOv8 ends."""
    reg, _, cls = build.split(table_of(build, raw), [4, 1, CLASSES], 1)
    return [build.add("Concat", [decoded(build, reg), build.add("Sigmoid", [cls])], axis=1)]


def selected(build: Builder, raw: Sequence[str], best_count: int = 10) -> list[str]:
    """The best of all candidates, [1, best_count, 6]: as YOLOv10 and YOLO26 end."""
    boxes, scores = boxes_and_scores(build, raw)
    scores = build.transpose(scores, [0, 2, 1])
    table = build.add("Concat", [boxes, scores], axis=2)
    boxes, scores = build.split(table, [4, CLASSES], 2)
    best = build.add("ReduceMax", [scores], axes=[2], keepdims=1)
    which = build.add("Cast", [build.add("ArgMax", [scores], axis=2, keepdims=1)], to=1)
    count = build.constant([best_count], np.int64)
    values, places = build.add("TopK", [best, count], count=2, axis=1)
    four = build.add("Expand", [places, build.constant([1, best_count, 4], np.int64)])
    picked = build.add("GatherElements", [boxes, four], axis=1)
    classes = build.add("GatherElements", [which, places], axis=1)
    return [build.add("Concat", [picked, values, classes], axis=2)]
