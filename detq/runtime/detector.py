"""The one way from an image to detections, for evaluation, benchmark, prediction and demo."""

from __future__ import annotations

import time
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.contract import OUTPUT
from detq.data.images import ImageBGR
from detq.data.letterbox import Letterbox, Preprocess
from detq.errors import CheckpointError, DataError, DetqError, GraphError, RuntimeTimeoutError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.execute import compile_for
from detq.graph.resize import resized
from detq.records import Detections, ModelSpec, SizeHW
from detq.runtime.devices import CPU
from detq.runtime.execution import (
    ExecutedConvolution,
    convolution_macs,
    executed_convolutions,
    precision_shares,
)
from detq.runtime.options import RuntimeOptions
from detq.runtime.postprocess import EVALUATION, PostprocessOptions, postprocess
from detq.runtime.scores_apart import predictions_of, table_of, with_scores_apart

Pixels = npt.NDArray[np.uint8]

SHAPES = 16
"""So many networks for shapes of images are kept compiled."""


class CompiledGraph:
    """A graph of any task compiled for a device: pixels in, the graph's own output.

    It may be used from several threads. Raises GraphError if OpenVINO cannot compile it, at once
    or, if it is ``lazy``, when it is first used.
    """

    def __init__(
        self, graph: DetectorGraph, *, options: RuntimeOptions | None = None, lazy: bool = False
    ) -> None:
        self.graph = graph
        self.options = options or RuntimeOptions()
        if not lazy:
            _ = self._compiled

    @cached_property
    def _compiled(self) -> ov.CompiledModel:
        return _compiled(self.graph, self.options)

    @cached_property
    def requests(self) -> int:
        """How many images at once suit the device, or the options say."""
        return self.options.requests or int(
            self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        )

    @property
    def spec(self) -> ModelSpec:
        """The model's name, classes and input size."""
        return self.graph.spec

    @cached_property
    def device(self) -> str:
        """What it was compiled for: CPU, GPU.0; of AUTO, its choice."""
        return ",".join(self._compiled.get_property("EXECUTION_DEVICES"))

    @cached_property
    def executed_convolutions(self) -> tuple[ExecutedConvolution, ...]:
        """What the runtime made of each convolution; none but on a CPU, whose words we know."""
        if self.device != CPU:
            return ()
        return executed_convolutions(self._compiled, convolution_macs(self.graph.model))

    @property
    def int8_share(self) -> float | None:
        """Share of the convolutions' multiply-accumulates that execute in INT8, 0..1; None where
        the device does not say.
        """
        if self.device != CPU:
            return None
        return precision_shares(self.executed_convolutions).get("int8", 0.0)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all convolutions for one image."""
        return sum(convolution_macs(self.graph.model).values())

    @property
    def executed_precision(self) -> str:
        """The precision that most of the convolution work executes in: int8, bf16, fp16 or fp32;
        ``unknown`` where the device does not say.
        """
        if self.device != CPU:
            return "unknown"
        shares = precision_shares(self.executed_convolutions)
        return next(iter(shares), "fp32")

    @property
    def blank(self) -> Pixels:
        """A black frame of the graph's size, uint8 [1, H, W, 3]."""
        return np.zeros((1, *self.spec.size_hw, 3), np.uint8)

    def infer(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """uint8 [1, H, W, 3] BGR of the graph's size -> the graph's output, float32."""
        request = self.create_request()
        request.infer([pixels])
        return table_of(request)

    def infer_all(self, frames: Iterable[Pixels]) -> None:
        """As :meth:`infer` on each frame, several at once; what it finds is thrown away."""
        queue = ov.AsyncInferQueue(self._compiled, self.requests)
        for pixels in frames:
            queue.start_async({0: pixels}, share_inputs=True)
        queue.wait_all()

    def create_request(self) -> ov.InferRequest:
        """Room for one image in flight."""
        return self._compiled.create_infer_request()


@dataclass(frozen=True)
class Rect:
    """Inputs of the images' own shapes, in whole strides; a square is half padding for a film.

    ``margin`` is what :meth:`~detq.data.letterbox.Preprocess.trimmed` adds. If ``is_wish``, a graph
    that is bound to its size keeps it.
    """

    margin: float = 0.0
    is_wish: bool = False

    @classmethod
    def of(cls, wanted: bool | None) -> Rect | None:
        """Whether inputs have the frames' shapes; None: where the graph can."""
        return None if wanted is False else cls(is_wish=wanted is None)


class Detector(CompiledGraph):
    """A detector graph compiled for a device, with its preprocessing and post-processing.

    ``preprocess`` defaults to the graph's fit and size. What an end-to-end detector
    finds is not suppressed, and may be of several classes. With ``rect``, the network is compiled
    for each shape of image that comes, no larger than it needs (:class:`Rect`), and for the whole
    input only if that is asked for. One detector may be used from several threads. Raises DetqError
    if the sizes contradict each other, the graph is no detector or, with ``rect``, is bound to its
    size, GraphError if OpenVINO cannot compile it.
    """

    def __init__(
        self,
        graph: DetectorGraph,
        *,
        preprocess: Preprocess | None = None,
        postprocess: PostprocessOptions = EVALUATION,
        options: RuntimeOptions | None = None,
        rect: Rect | None = None,
    ) -> None:
        self.preprocess = preprocess or Preprocess(graph.spec.size_hw, fit=graph.spec.fit)
        self.postprocess = postprocess
        if graph.spec.end_to_end:
            self.postprocess = replace(postprocess, iou=None, multi_label=True)
        if graph.spec.contract.output != OUTPUT:
            raise DetqError(f"{graph.spec.name}: {graph.spec.contract.use}")
        if self.preprocess.size_hw != graph.spec.size_hw:
            raise DetqError(
                f"{graph.spec.name}: takes images of {graph.spec.size_hw} (H, W), the "
                f"preprocessing makes {self.preprocess.size_hw}"
            )
        if rect is not None:
            try:
                check_rect(graph)
            except CheckpointError:
                if not rect.is_wish:
                    raise
                rect = None
        self.rect = rect
        self._shaped = lru_cache(SHAPES)(
            lambda size_hw: CompiledGraph(resized(graph, size_hw), options=options)
        )
        super().__init__(graph, options=options, lazy=rect is not None)

    def detect(self, image_bgr: ImageBGR) -> Detections:
        """uint8 [H, W, 3] BGR of any size -> detections in its pixels.

        Raises RuntimeTimeoutError if inference does not finish in time.
        """
        placed = self.place(image_bgr)
        return self.start(placed, placed.network.create_request()).finish()

    def tuned(self, *, confidence: float, iou: float) -> Detector:
        """The same compiled model with other thresholds; nothing is compiled again.

        What an end-to-end detector finds is not suppressed, whatever ``iou`` says. Raises DetqError
        for thresholds outside 0..1.
        """
        other = copy(self)
        chosen = replace(self.postprocess, confidence=confidence, iou=iou)
        if self.spec.end_to_end:
            chosen = replace(chosen, iou=None)
        other.postprocess = chosen
        return other

    def place(self, image_bgr: ImageBGR) -> PlacedImage:
        """uint8 [H, W, 3] BGR of any size -> what :meth:`start` takes. Raises DataError."""
        check_image(image_bgr)
        preprocess = self.trimmed((image_bgr.shape[0], image_bgr.shape[1]))
        return PlacedImage(*preprocess.place(image_bgr), self.network_of(preprocess.size_hw))

    @property
    def is_rect(self) -> bool:
        """True if inputs have the images' own shapes."""
        return self.rect is not None

    def trimmed(self, original_hw: SizeHW) -> Preprocess:
        """What an image of that size goes through: with ``rect`` its input is of its own shape."""
        if self.rect is None:
            return self.preprocess
        stride, margin = max(self.spec.strides), self.rect.margin
        return self.preprocess.trimmed(original_hw, stride=stride, margin=margin)

    def network_of(self, size_hw: SizeHW) -> CompiledGraph:
        """The network for inputs of that size, compiled when it is first asked for."""
        return self if size_hw == self.spec.size_hw else self._shaped(size_hw)

    def start(self, placed: PlacedImage, request: ov.InferRequest) -> Job:
        """Begin inference and return at once. ``request``, of ``placed.network``, must be idle."""
        request.start_async({0: placed.pixels}, share_inputs=True)
        return Job(self, request, placed)


def check_rect(graph: DetectorGraph) -> None:
    """Raise CheckpointError for a graph that is bound to its size, and has no other shape."""
    height, width = graph.spec.size_hw
    try:
        resized(graph, (height + max(graph.spec.strides), width))
    except CheckpointError:
        raise CheckpointError(
            f"{graph.spec.name}: is bound to inputs of {height}x{width} (HxW), whatever is inside; "
            "leave out --rect, or export it again with a size that is left open"
        ) from None


@dataclass(frozen=True)
class PlacedImage:
    """uint8 [1, H, W, 3] BGR of the network's size, where in it the image lies, and the network."""

    pixels: Pixels
    letterbox: Letterbox
    network: CompiledGraph


class Pending:
    """A request that was started just now; ``pixels`` are what the runtime reads meanwhile."""

    def __init__(self, network: CompiledGraph, request: ov.InferRequest, pixels: Pixels) -> None:
        self.request = request
        self._network = network
        self._pixels = pixels
        self._started_s = time.monotonic()

    def wait(self) -> None:
        """Return when the network is done. Raises RuntimeTimeoutError."""
        name, limit_s = self._network.spec.name, self._network.options.timeout_s
        left_s = limit_s - (time.monotonic() - self._started_s)
        try:
            in_time = self.request.wait_for(max(int(left_s * 1000), 0))
        except RuntimeError as error:
            raise DetqError(f"{name}: inference failed ({error})") from None
        if not in_time:
            raise RuntimeTimeoutError(
                f"{name}: no result after {limit_s:g} s; the machine is too busy or the runtime "
                "hangs: use fewer threads, or allow more time"
            )


class Job(Pending):
    """An image in flight."""

    def __init__(self, detector: Detector, request: ov.InferRequest, placed: PlacedImage) -> None:
        super().__init__(detector, request, placed.pixels)
        self._detector = detector
        self._placed = placed

    def finish(self) -> Detections:
        """Wait for the network, then post-process; the request is idle afterwards.

        Raises RuntimeTimeoutError if that takes longer than the detector's limit.
        """
        self.wait()
        predictions = predictions_of(self.request)
        return postprocess(predictions, self._placed.letterbox, self._detector.postprocess)


def check_image(image_bgr: ImageBGR) -> None:
    """Raise DataError unless it is uint8 [H, W, 3] with at least one pixel."""
    shape = image_bgr.shape
    if len(shape) != 3 or shape[2] != 3 or image_bgr.dtype != "uint8" or not image_bgr.size:
        raise DataError(
            f"expected an image of uint8 [H, W, 3], got {image_bgr.dtype} {list(shape)}"
        )


def _compiled(graph: DetectorGraph, options: RuntimeOptions) -> ov.CompiledModel:
    try:
        return compile_for(options.device, executed(graph), options.properties())
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise GraphError(f"{graph.spec.name}: OpenVINO cannot compile it ({reason})") from None


def executed(graph: DetectorGraph) -> ov.Model:
    """The graph that is compiled: uint8 [1, H, W, 3] BGR -> what :func:`table_of` and
    :func:`predictions_of` read.
    """
    pixels = fed_with_pixels(graph.model)
    return with_scores_apart(pixels) if graph.spec.contract.has_places else pixels


def fed_with_pixels(model: ov.Model) -> ov.Model:
    """A copy whose input is uint8 [1, H, W, 3] BGR: colour order, layout, scale are in the graph.

    There the runtime folds them into what follows: an INT8 model quantizes the image by reading it.
    """
    builder = ov.preprocess.PrePostProcessor(model.clone())
    image = builder.input(0)
    image.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_color_format(
        ov.preprocess.ColorFormat.BGR
    )
    image.model().set_layout(ov.Layout("NCHW"))
    steps = image.preprocess().convert_element_type(ov.Type.f32)
    steps.convert_color(ov.preprocess.ColorFormat.RGB).scale(255.0)
    return builder.build()
