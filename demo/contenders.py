"""The one or two models on show, each compiled for the share of the machine that it gets."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import detq

ImageSize = int | tuple[int, int]


def title(detector: detq.Detector) -> str:
    """Model and how it executes: ``yolov6n INT8``."""
    return f"{detector.spec.name} {execution(detector)}"


def execution(detector: detq.Detector) -> str:
    """The precision that most of the work really executes in: ``INT8``; elsewhere than on the CPU,
    which says so, where: ``on GPU.0``.
    """
    on_cpu = detector.device == "CPU"
    return str(detector.executed_precision.upper() if on_cpu else f"on {detector.device}")


class Contender:
    """A model on show.

    ``alone`` has the threads of ``options`` (all cores if None) to itself; ``beside`` is the same
    model with half of them, for two that run at once. Each is compiled on first use.
    """

    def __init__(
        self,
        model: str,
        *,
        imgsz: ImageSize | None = None,
        options: detq.RuntimeOptions | None = None,
        progress: detq.Progress | None = None,
    ) -> None:
        self._graph = detq.load(model, imgsz=imgsz, progress=progress)
        self._options = options or detq.RuntimeOptions()

    @cached_property
    def alone(self) -> detq.Detector:
        """For a model that is shown by itself."""
        return self._compile(self._options)

    @cached_property
    def beside(self) -> detq.Detector:
        """For a model that another one runs beside."""
        if self._options.device != "CPU":
            return self.alone
        threads = max(1, (self._options.threads or detq.core_count()) // 2)
        return self._compile(replace(self._options, threads=threads))

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
        return detq.fastest_float(self._graph, device=self._options.device)

    def _compile(self, options: detq.RuntimeOptions) -> detq.Detector:
        # Not pinned: two models with a thread each would be tied to the same core. One request:
        # what counts is how old a picture is when its boxes are there.
        pinning = False if options.device == "CPU" else None
        options = replace(
            options, requests=1, pinning=pinning, float_precision=self._float_precision
        )
        return detq.detector(self._graph, options=options, rect=None)
