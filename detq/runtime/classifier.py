"""The one way from an image to its class, for evaluation and prediction."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable

import numpy as np
import numpy.typing as npt

from detq.contract import SCORES
from detq.data.centre_crop import CentreCrop
from detq.data.images import ImageBGR
from detq.errors import DetqError
from detq.graph.detector_graph import DetectorGraph
from detq.records import Ranking
from detq.runtime.detector import CompiledGraph, Pending, check_image
from detq.runtime.options import RuntimeOptions

BEST = 5
"""How many classes a ranking holds, if the model has as many."""


class Classifier(CompiledGraph):
    """A classifier's graph compiled for the CPU, with its preprocessing.

    One classifier may be used from several threads. Raises DetqError if the graph is no
    classifier, GraphError if OpenVINO cannot compile it.
    """

    def __init__(self, graph: DetectorGraph, *, options: RuntimeOptions | None = None) -> None:
        if graph.spec.contract.output != SCORES:
            raise DetqError(f"{graph.spec.name}: {graph.spec.contract.use}")
        super().__init__(graph, options=options)
        self.preprocess = CentreCrop(graph.spec.size_hw)

    def classify(self, image_bgr: ImageBGR) -> Ranking:
        """uint8 [H, W, 3] BGR of any size -> its best classes.

        Raises DataError for an array that is no image, RuntimeTimeoutError.
        """
        return next(classify_stream(self, [image_bgr]))


def classify_stream(classifier: Classifier, images_bgr: Iterable[ImageBGR]) -> Generator[Ranking]:
    """The best classes of each image, in order; several are in flight at once.

    Raises what :meth:`Classifier.classify` and the source raise.
    """
    idle = [classifier.create_request() for _ in range(classifier.requests)]
    busy: deque[Pending] = deque()
    try:
        for image in images_bgr:
            check_image(image)
            if not idle:
                yield _finish(busy[0])
                idle.append(busy.popleft().request)
            pixels, _ = classifier.preprocess.place(image)
            request = idle.pop()
            request.start_async({0: pixels}, share_inputs=True)
            busy.append(Pending(classifier, request, pixels))
        while busy:
            yield _finish(busy[0])
            busy.popleft()
    finally:
        for pending in busy:  # the caller stopped early, or something failed
            pending.request.cancel()


def _finish(pending: Pending) -> Ranking:
    pending.wait()
    return rank(pending.request.get_output_tensor(0).data[0])


def rank(scores: npt.NDArray[np.float32]) -> Ranking:
    """[nc] scores -> the best classes; of equal scores the first class wins."""
    order = np.argsort(-scores, kind="stable")[:BEST]
    return Ranking(order.astype(np.int64), scores[order].astype(np.float32))
