"""The one or two models on show, each compiled for the share of the machine that it gets."""

from __future__ import annotations

import os
from functools import cached_property

import detq

ImageSize = int | tuple[int, int]


def title(detector: detq.Detector) -> str:
    """Model and the precision that most of its work really executes in: ``yolov6n INT8``."""
    return f"{detector.spec.name} {detector.executed_precision.upper()}"


class Contender:
    """A model on show.

    ``alone`` has ``threads`` threads (all cores if None) to itself; ``beside`` is the same model
    with half of them, for two that run at once. Each is compiled on first use.
    """

    def __init__(
        self,
        model: str,
        *,
        imgsz: ImageSize | None = None,
        threads: int | None = None,
        progress: detq.Progress | None = None,
    ) -> None:
        self._graph = detq.load(model, imgsz=imgsz, progress=progress)
        self._threads = threads

    @cached_property
    def alone(self) -> detq.Detector:
        """For a model that is shown by itself."""
        return self._compile(self._threads)

    @cached_property
    def beside(self) -> detq.Detector:
        """For a model that another one runs beside."""
        return self._compile(max(1, (self._threads or os.cpu_count() or 2) // 2))

    def compiled(self, *, beside: bool) -> detq.Detector:
        """:attr:`beside` or :attr:`alone`."""
        return self.beside if beside else self.alone

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self._graph.spec.name)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by id."""
        return tuple(self._graph.spec.class_names)

    @property
    def size_hw(self) -> tuple[int, int]:
        """The network's input in pixels."""
        height, width = self._graph.spec.size_hw
        return height, width

    @cached_property
    def _float_precision(self) -> detq.FloatPrecision:
        """The one that users of a float model have here: to beat a slower one proves nothing."""
        return detq.fastest_float(self._graph)

    def _compile(self, threads: int | None) -> detq.Detector:
        # Not pinned: two models with a thread each would be tied to the same core. One request:
        # what counts is how old a picture is when its boxes are there.
        options = detq.RuntimeOptions(
            threads=threads, requests=1, pinning=False, float_precision=self._float_precision
        )
        try:
            return detq.detector(self._graph, options=options, rect=True)
        except detq.DetqError:  # it is bound to its size
            return detq.detector(self._graph, options=options)
