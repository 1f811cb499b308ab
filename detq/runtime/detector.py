"""The one way from an image to detections, for evaluation, benchmark, prediction and demo."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.data.images import ImageBGR
from detq.data.letterbox import Letterbox, Preprocess
from detq.errors import DataError, DetqError, GraphError, RuntimeTimeoutError
from detq.graph.detector_graph import DetectorGraph
from detq.records import Detections, ModelSpec
from detq.runtime.execution import (
    ExecutedConvolution,
    convolution_macs,
    executed_convolutions,
    precision_shares,
)
from detq.runtime.postprocess import EVALUATION, PostprocessOptions, postprocess

FloatPrecision = Literal["f32", "bf16", "f16"]
Pixels = npt.NDArray[np.uint8]


class Detector:
    """A detector graph compiled for the CPU, with its preprocessing and post-processing.

    ``preprocess`` defaults to a plain letterbox of the graph's size. ``threads`` and ``requests``
    (images in flight at once) default to what OpenVINO finds best for throughput; one request asks
    for the lowest latency instead. ``float_precision`` is what operations that are not quantized
    compute in. A request that takes longer than ``timeout_s`` seconds is an error.

    One detector may be used from several threads.
    """

    def __init__(
        self,
        graph: DetectorGraph,
        *,
        preprocess: Preprocess | None = None,
        postprocess: PostprocessOptions = EVALUATION,
        threads: int | None = None,
        requests: int | None = None,
        float_precision: FloatPrecision = "f32",
        timeout_s: float = 60.0,
    ) -> None:
        for option, value in (("threads", threads), ("requests", requests), ("timeout", timeout_s)):
            if value is not None and value <= 0:
                raise DetqError(f"{graph.spec.name}: {option} must be positive, got {value}")
        self.graph = graph
        self.preprocess = preprocess or Preprocess(graph.spec.size_hw)
        self.postprocess = postprocess
        self.timeout_s = timeout_s
        if self.preprocess.size_hw != graph.spec.size_hw:
            raise DetqError(
                f"{graph.spec.name}: takes images of {graph.spec.size_hw} (H, W), the "
                f"preprocessing makes {self.preprocess.size_hw}"
            )
        self._compiled = _compile(graph, threads, requests, float_precision)
        self.requests: int = requests or self._compiled.get_property(
            "OPTIMAL_NUMBER_OF_INFER_REQUESTS"
        )

    @property
    def spec(self) -> ModelSpec:
        """The model's name, classes and input size."""
        return self.graph.spec

    @cached_property
    def executed_convolutions(self) -> tuple[ExecutedConvolution, ...]:
        """What the runtime made of each convolution."""
        return executed_convolutions(self._compiled, convolution_macs(self.graph.model))

    @property
    def int8_share(self) -> float:
        """Share of the convolutions' multiply-accumulates that execute in INT8, 0..1."""
        return precision_shares(self.executed_convolutions).get("int8", 0.0)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all convolutions for one image."""
        return sum(convolution_macs(self.graph.model).values())

    @property
    def executed_precision(self) -> str:
        """The precision that most of the convolution work executes in: int8, bf16, fp16 or fp32."""
        shares = precision_shares(self.executed_convolutions)
        return next(iter(shares), "fp32")

    def infer(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """uint8 [1, H, W, 3] BGR of the graph's size -> predictions [1, 4 + nc, N]."""
        return np.asarray(self._compiled(pixels)[0], np.float32)

    def infer_all(self, frames: Iterable[Pixels]) -> None:
        """As :meth:`infer` on each frame, several at once; what it finds is thrown away."""
        queue = ov.AsyncInferQueue(self._compiled, self.requests)
        for pixels in frames:
            queue.start_async({0: pixels}, share_inputs=True)
        queue.wait_all()

    def detect(self, image_bgr: ImageBGR) -> Detections:
        """uint8 [H, W, 3] BGR of any size -> detections in its pixels.

        Raises RuntimeTimeoutError if inference does not finish in time.
        """
        return next(self.detect_many([image_bgr]))

    def detect_many(self, images_bgr: Iterable[ImageBGR]) -> Iterator[Detections]:
        """Detections of each image, in order; several images are in flight at once.

        No more images are drawn from ``images_bgr`` than can be in flight. Raises as
        :meth:`detect` does.
        """
        idle: list[ov.InferRequest] = []
        busy: deque[_Job] = deque()
        created = 0
        try:
            for image in images_bgr:
                if not idle and created < self.requests:
                    idle.append(self._compiled.create_infer_request())
                    created += 1
                elif not idle:
                    yield self._finish(busy[0])
                    idle.append(busy.popleft().request)
                busy.append(self._start(idle.pop(), image))
            while busy:
                yield self._finish(busy[0])
                busy.popleft()
        finally:
            for job in busy:  # the caller stopped early, or a request failed
                job.request.cancel()

    def _start(self, request: ov.InferRequest, image: ImageBGR) -> _Job:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != "uint8" or not image.size:
            raise DataError(
                f"expected an image of uint8 [H, W, 3], got {image.dtype} {list(image.shape)}"
            )
        pixels, letterbox = self.preprocess.place(image)
        request.start_async({0: pixels}, share_inputs=True)
        return _Job(request, letterbox)

    def _finish(self, job: _Job) -> Detections:
        left_s = self.timeout_s - (time.monotonic() - job.started_s)
        try:
            in_time = job.request.wait_for(max(int(left_s * 1000), 0))
        except RuntimeError as error:
            raise DetqError(f"{self.spec.name}: inference failed ({error})") from None
        if not in_time:
            raise RuntimeTimeoutError(
                f"{self.spec.name}: no result after {self.timeout_s:g} s; the machine is too busy "
                "or the runtime hangs: use fewer threads, or allow more time"
            )
        predictions = job.request.get_output_tensor(0).data[0]  # [4 + nc, N]
        return postprocess(predictions, job.letterbox, self.postprocess)


class _Job:
    """An image in flight."""

    def __init__(self, request: ov.InferRequest, letterbox: Letterbox) -> None:
        self.request = request
        self.letterbox = letterbox
        self.started_s = time.monotonic()


def _compile(
    graph: DetectorGraph, threads: int | None, requests: int | None, float_precision: str
) -> ov.CompiledModel:
    properties: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY" if requests == 1 else "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": float_precision,
    }
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    if requests is not None:
        properties["PERFORMANCE_HINT_NUM_REQUESTS"] = requests
    try:
        return ov.Core().compile_model(_fed_with_pixels(graph.model), "CPU", properties)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise GraphError(f"{graph.spec.name}: OpenVINO cannot compile it ({reason})") from None


def _fed_with_pixels(model: ov.Model) -> ov.Model:
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
