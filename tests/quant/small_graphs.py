"""Small detectors with known weights, built from OpenVINO operations alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.graph.detector_graph import INPUT, OUTPUT, DetectorGraph
from detq.graph.surgery import nodes_of_type
from detq.quant.network import Network
from detq.quant.pipeline import Pass, run_passes
from detq.records import ModelSpec, ReparamConvolution

Array = npt.NDArray[np.float32]

SIZE = 32


class Layers:
    """Makes operations whose weights come from one random generator."""

    def __init__(self, *, seed: int = 0, outlier: float = 1.0) -> None:
        self._generator = np.random.default_rng(seed)
        self._outlier = outlier  # how many times larger centre taps are

    def image(self) -> ov.Node:
        return ops.parameter([1, 3, SIZE, SIZE], ov.Type.f32, name=INPUT)

    def convolution(
        self,
        above: ov.Node,
        channels: int,
        name: str,
        *,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        padding: int | None = None,
        dilation: int = 1,
    ) -> ov.Node:
        inputs = above.get_output_shape(0)[1] // groups
        bound = 1.5 / (inputs * kernel) ** 0.5
        shape = (channels, inputs, kernel, kernel)
        weight = self._generator.uniform(-bound, bound, shape).astype(np.float32)
        weight[:, :, kernel // 2, kernel // 2] *= self._outlier
        weight /= max(1.0, self._outlier / 3)  # activations stay within reason
        build = ops.convolution
        if groups > 1:
            weight = weight.reshape(groups, channels // groups, *shape[1:])
            build = ops.group_convolution
        pads = [dilation * (kernel // 2) if padding is None else padding] * 2
        constant = ops.constant(weight)
        node = build(above, constant, [stride, stride], pads, pads, [dilation, dilation])
        node.set_friendly_name(name)
        if not bias:
            return node
        shift = self._generator.uniform(-0.5, 0.5, (1, channels, 1, 1)).astype(np.float32)
        return ops.add(node, ops.constant(shift))


def stretched(above: ov.Node, channel: int, reach: float) -> ov.Node:
    """One channel of [1, C, H, W] multiplied by ``reach``."""
    scale = np.ones((1, above.get_output_shape(0)[1], 1, 1), np.float32)
    scale[:, channel] = reach
    return ops.multiply(above, ops.constant(scale))


def detector(
    image: ov.Node, features: ov.Node, reparameterized: Iterable[ReparamConvolution] = ()
) -> DetectorGraph:
    """A decode that stays within the contract: the mean, a sigmoid, and boxes of a fixed size."""
    channels, *sides = features.get_output_shape(0)[1:]
    rows = ops.reshape(features, np.array([1, channels, int(np.prod(sides))]), False)
    boxes, scores = ops.variadic_split(rows, 1, [4, channels - 4]).outputs()
    scaled = ops.multiply(boxes, ops.constant(np.float32(SIZE)))
    output = ops.concat([scaled, ops.sigmoid(scores)], 1)
    model = ov.Model([ops.result(output)], [image], "small")
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    names = tuple(f"class{index}" for index in range(channels - 4))
    spec = ModelSpec("small", "test", names, (SIZE,), (SIZE, SIZE), tuple(reparameterized))
    return DetectorGraph(model, spec)


def repvgg_like(*, seed: int = 0, outlier: float = 12.0) -> DetectorGraph:
    """Backbone and neck of fused RepVGG blocks: strides 1 and 2, with bias and without, grouped.

    Behind the neck a head whose convolution is re-parameterized too, then the decode.
    """
    make = Layers(seed=seed, outlier=outlier)
    image = make.image()
    stem = ops.relu(make.convolution(image, 16, "backbone.stem", stride=2))
    bare = ops.relu(make.convolution(stem, 16, "backbone.bare", bias=False))
    grouped = ops.relu(make.convolution(bare, 16, "backbone.grouped", groups=4))
    neck = ops.relu(make.convolution(grouped, 24, "neck.down", stride=2, bias=False))
    head = ops.relu(make.convolution(neck, 24, "detect.stem"))
    features = make.convolution(head, 7, "detect.pred", kernel=1)
    parts = {
        "backbone.stem": "backbone",
        "backbone.bare": "backbone",
        "backbone.grouped": "backbone",
        "neck.down": "neck",
        "detect.stem": "head",
    }
    reparameterized = [ReparamConvolution(name, part) for name, part in parts.items()]  # type: ignore[arg-type]
    return detector(image, features, reparameterized)


def pyramid(*, seed: int = 0) -> DetectorGraph:
    """What meets in one Concat: a tensor, its MaxPool (SPPF) and another branch; then depthwise."""
    make = Layers(seed=seed)
    image = make.image()
    stem = ops.relu(make.convolution(image, 8, "backbone.stem", stride=2))
    inner = ops.relu(make.convolution(stem, 8, "backbone.inner", kernel=1))
    pooled = _pool(inner)
    wide = ops.multiply(stem, ops.constant(np.float32(5)))
    other = ops.relu(make.convolution(wide, 8, "backbone.other", kernel=1))
    joined = ops.concat([inner, pooled, _pool(pooled), other], 1)
    mixed = make.convolution(joined, 16, "neck.mix", kernel=1)
    swish = ops.multiply(mixed, ops.sigmoid(mixed))
    deep = ops.relu(make.convolution(swish, 16, "neck.depthwise", groups=16))
    features = make.convolution(deep, 7, "detect.pred", kernel=1)
    return detector(image, features)


def _pool(above: ov.Node | ov.Output) -> ov.Output:
    pads = [2, 2]
    return ops.max_pool(above, [1, 1], [1, 1], pads, pads, [5, 5], "floor").output(0)


def images(count: int = 8, *, size: int | tuple[int, int] = SIZE, seed: int = 0) -> list[Array]:
    """Smooth pictures [1, 3, H, W] in 0..1 of different brightness."""
    generator = np.random.default_rng(seed)
    height, width = (size, size) if isinstance(size, int) else size
    result = []
    for _ in range(count):
        coarse = generator.random((1, 3, height // 4, width // 4)) * generator.uniform(0.3, 1)
        smooth = np.kron(coarse, np.ones((1, 1, 4, 4)))
        noise = 0.05 * generator.random((1, 3, height, width))
        result.append(np.clip(smooth + noise, 0, 1).astype(np.float32))
    return result


class Source:
    """The images that a quantizer asks for, by stage; remembers what it asked."""

    def __init__(self, given: list[Array]) -> None:
        self._given = given
        self.asked: list[tuple[str, int | None]] = []

    def __call__(self, stage: str, count: int | None) -> Iterator[Array]:
        self.asked.append((stage, count))
        return iter(self._given[:count])


def through(graph: DetectorGraph | Network, *passes: Pass, given: list[Array]) -> Network:
    """What passes make of a float detector, or of a network on its way."""
    network = Network.of(graph) if isinstance(graph, DetectorGraph) else graph
    return run_passes(network, passes, Source(given))[0]


def run(model: ov.Model, inputs: Iterable[Array], **options: str) -> Array:
    """The outputs for all inputs, stacked; in float32 unless the model says otherwise."""
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **options})
    return np.concatenate([compiled(image)[0] for image in inputs])


def relative_error(actual: Array, expected: Array) -> float:
    """Largest difference over the largest value expected."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def fingerprint(model: ov.Model) -> list[tuple[object, ...]]:
    """What must not change in a graph that is only read: names, types, inputs, constants."""
    return [
        (
            node.get_friendly_name(),
            node.get_type_name(),
            [port.get_node().get_friendly_name() for port in node.input_values()],
            [len(output.get_target_inputs()) for output in node.outputs()],
            node.get_data().tobytes() if node.get_type_name() == "Constant" else b"",
        )
        for node in model.get_ordered_ops()
    ]


def limits(model: ov.Model) -> dict[str, list[Array]]:
    """Name of each FakeQuantize -> its four constants."""
    return {
        node.get_friendly_name(): [node.input_value(i).get_node().get_data() for i in range(1, 5)]
        for node in nodes_of_type(model, "FakeQuantize")
    }
