"""A small real detector that predicts by queries, as RT-DETR is built, and its exporters' tails.

Convolutions, attention over the smallest map, a convolution behind it, a choice of the cells that
look most like objects, a decoder of self- and cross-attention, logits and boxes in shares.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx_detectors import Array, Builder, raw_maps, save

WIDTH = 16
QUERIES = 10
STRIDE = 16
BEST = 8


def query_network(build: Builder, image: str, classes: int, *, patches: bool = False) -> list[str]:
    """Logits [1, QUERIES, classes] and boxes [1, QUERIES, 4], centre and size in shares."""
    height, width = (side // STRIDE for side in build.size_hw)
    if patches:
        weights = build.constant(build.random.normal(size=(WIDTH, 3, STRIDE, STRIDE)) / 30)
        maps = build.add("Conv", [image, weights], kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2)
    else:
        maps = image
        for index, inputs in enumerate((3, 8, 8, 8)):
            outputs = WIDTH if index == 3 else 8
            maps = build.convolution(maps, inputs, outputs, name=f"/backbone/{index}", stride=2)
            maps = build.add("Relu", [maps])
    tokens = _tokens(build, maps, height * width)
    tokens = _normal(build, tokens, _attention(build, tokens, tokens))
    maps = build.reshape(build.transpose(tokens, [0, 2, 1]), [1, WIDTH, height, width])
    maps = build.convolution(maps, WIDTH, WIDTH, name="/encoder/fuse")
    memory = _tokens(build, build.add("Relu", [maps]), height * width)
    best = build.add("ReduceMax", [_linear(build, memory, classes)], axes=[2], keepdims=0)
    _, places = build.add("TopK", [best, build.constant([QUERIES], np.int64)], count=2, axis=1)
    queries = build.add("GatherElements", [memory, _spread(build, places, WIDTH, QUERIES)], axis=1)
    queries = _normal(build, queries, _attention(build, queries, queries))
    queries = _normal(build, queries, _attention(build, queries, memory))
    inner = build.add("Relu", [_linear(build, queries, 2 * WIDTH)])
    queries = _normal(build, queries, _linear(build, inner, WIDTH, 2 * WIDTH))
    logits = _linear(build, queries, classes)
    return [logits, str(build.add("Sigmoid", [_linear(build, queries, 4)]))]


def best_of_all(
    build: Builder, logits: str, boxes: str, classes: int, *, softmax: bool = False
) -> list[str]:
    """``labels``, ``boxes`` (corners in pixels of the image) and ``scores`` of the best."""
    centre, size = build.split(boxes, [2, 2], 2)
    half = build.add("Mul", [size, build.constant(0.5)])
    low, high = build.add("Sub", [centre, half]), build.add("Add", [centre, half])
    shares = build.add("Concat", [low, high], axis=2)
    twice = build.add("Tile", ["orig_target_sizes", build.constant([1, 2], np.int64)])
    sides = build.add(
        "Cast", [build.add("Unsqueeze", [twice, build.constant([1], np.int64)])], to=1
    )
    corners = build.add("Mul", [shares, sides])
    if softmax:  # without a choice: as many as there are queries
        odds, _ = build.split(build.add("Softmax", [logits], axis=2), [classes - 1, 1], 2)
        labels = build.add("ArgMax", [odds], axis=2, keepdims=0)
        values = build.add("ReduceMax", [odds], axes=[2], keepdims=0)
        picked = corners
    else:
        picked, values, places = best_pairs(build, logits, corners, classes)
        labels = build.add("Mod", [places, build.constant(classes, np.int64)])
    ends = {"labels": labels, "boxes": picked, "scores": values}
    return [build.called(value, name) for name, value in ends.items()]


def best_pairs(build: Builder, logits: str, boxes: str, classes: int = 3) -> tuple[str, str, str]:
    """Boxes, scores and places (query by query) of the best pairs of query and class."""
    flat = build.reshape(build.add("Sigmoid", [logits]), [1, -1])
    count = build.constant([BEST], np.int64)
    values, places = build.add("TopK", [flat, count], count=2, axis=1)
    query = build.add("Div", [places, build.constant(classes, np.int64)])
    picked = build.add("GatherElements", [boxes, _spread(build, query, 4, BEST)], axis=1)
    return picked, values, places


def raw_queries(
    path: Path, images: Array, classes: int, *, patches: bool = False
) -> tuple[Array, Array]:
    """Logits [Q, nc] and boxes [Q, 4] of the same network, by ONNX Runtime."""
    build = Builder(named=True)
    save(build, path, query_network(build, "images", classes, patches=patches))
    logits, boxes = raw_maps(path, images)
    return logits[0], boxes[0]


def _tokens(build: Builder, maps: str, cells: int) -> str:
    return build.transpose(build.reshape(maps, [1, WIDTH, cells]), [0, 2, 1])


def _linear(build: Builder, value: str, outputs: int, inputs: int = WIDTH) -> str:
    weights = build.constant(build.random.normal(size=(inputs, outputs)) / np.sqrt(inputs))
    bias = build.constant(build.random.normal(size=outputs) / 4)
    return str(build.add("Add", [build.add("MatMul", [value, weights]), bias]))


def _attention(build: Builder, to: str, of: str) -> str:
    wanted, found, values = (_linear(build, each, WIDTH) for each in (to, of, of))
    alike = build.add("MatMul", [wanted, build.transpose(found, [0, 2, 1])])
    shares = build.add("Softmax", [build.add("Div", [alike, build.constant(WIDTH**0.5)])], axis=2)
    return _linear(build, str(build.add("MatMul", [shares, values])), WIDTH)


def _normal(build: Builder, value: str, change: str) -> str:
    factor = build.constant(build.random.uniform(0.5, 2, WIDTH))
    shift = build.constant(build.random.normal(size=WIDTH) / 4)
    total = build.add("Add", [value, change])
    return str(build.add("LayerNormalization", [total, factor, shift], axis=-1, epsilon=1e-5))


def _spread(build: Builder, places: str, columns: int, rows: int) -> str:
    apart = build.add("Unsqueeze", [places, build.constant([2], np.int64)])
    return str(build.add("Expand", [apart, build.constant([1, rows, columns], np.int64)]))
