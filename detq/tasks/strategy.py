"""What a module of this package has to offer for its task."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from detq.config import DatasetConfig
from detq.data.calibration import Preprocessing
from detq.data.dataset import Split
from detq.data.images import ImageBGR
from detq.evaluation.evaluator import Runner
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Steps
from detq.records import Detections, EvalResult, ModelSpec, Ranking, SizeHW
from detq.report.disagreement import Difference
from detq.report.words import Metric, Words
from detq.runtime.detector import CompiledGraph
from detq.runtime.options import RuntimeOptions

Reader = Callable[[Path, SizeHW | None, str], DetectorGraph]
"""(model file, (H, W) in pixels, layout) -> the graph, read in that layout."""


Found = Detections | Ranking
Finder = Callable[[Iterable[ImageBGR]], Generator[tuple[ImageBGR, Found]]]
"""Images in, each with what is found in it out, in order and several at once."""
Network = TypeVar("Network", bound=CompiledGraph)
Seen = TypeVar("Seen")


class Strategy(Protocol[Network, Seen]):
    """All that differs between tasks. ``Network`` is what runs a graph of the task, ``Seen`` what
    it finds in some images.
    """

    @property
    def COLUMNS(self) -> Sequence[Metric]:  # noqa: N802 - a constant of a module
        """What a table of results shows, the one that counts first."""

    @property
    def WORDS(self) -> Words:  # noqa: N802
        """What a report says, and which figures are kept beside an exported model."""

    @property
    def FINDS_BOXES(self) -> bool:  # noqa: N802
        """True if it finds boxes: what can be drawn, tracked, and measured from file to boxes."""

    def preprocess(self, spec: ModelSpec) -> Preprocessing:
        """What images go through before the network."""

    def preprocess_keys(self, spec: ModelSpec) -> dict[str, Any]:
        """The same in words, for other programs."""

    def named(self, spec: ModelSpec, data: DatasetConfig) -> ModelSpec:
        """The spec with the data set's class names in place of placeholders, where they fit."""

    def compiled(
        self, graph: DetectorGraph, /, *, options: RuntimeOptions | None = None
    ) -> Network:
        """The graph at work, as evaluation has it."""

    def run(
        self, network: Network, paths: Sequence[Path], /, *, progress: Steps | None = None
    ) -> Seen:
        """What it finds in each image file, in order; damaged ones are left out."""

    def agreement(self, reference: Seen, candidate: Seen, /, *, class_count: int) -> float | None:
        """How far one finds what another found, in percent; None if that found nothing."""

    def is_certain(self, network: Network, seen: Seen, /) -> bool:
        """False for a network that sees things everywhere, or nothing before anything else."""

    def differences(
        self, exact: DetectorGraph, rounded: DetectorGraph, images: Split
    ) -> Sequence[Difference]:
        """The images in which the two find different things, the worst first, few of them, with
        what is really in them where the split says so. No image may be damaged.
        """

    def has_ground_truth(self, data: DatasetConfig, split: str) -> bool:
        """True if the data set says for the split what is right. Raises ConfigError."""

    def check_classes(self, spec: ModelSpec, data: DatasetConfig, split: str) -> None:
        """Raises DataError, before anything is seen, if the model cannot be judged on a split with
        ground truth: it does not know its classes.
        """

    def evaluate(
        self,
        graph: DetectorGraph,
        data: DatasetConfig,
        split: str,
        *,
        preset: str | None = None,
        options: RuntimeOptions | None = None,
        rect: bool = False,
        runner: Runner | None = None,
        progress: Steps | None = None,
    ) -> EvalResult:
        """Its scores on a split; with ``rect`` inputs have the images' shapes. Detectors can be run
        by another ``runner``. Raises DataError.
        """

    def doubt(
        self,
        graph: DetectorGraph,
        data: DatasetConfig,
        split: str,
        *,
        model: Path | None,
        read: Reader,
    ) -> str | None:
        """Why figures on a split would mean nothing, in one line; None if all is well.

        ``model`` is the file that it was read from, ``read`` reads it in another layout.
        """

    def finder(
        self,
        graph: DetectorGraph,
        *,
        confidence: float,
        iou: float,
        rect: bool | None,
        options: RuntimeOptions | None,
    ) -> Finder:
        """The graph at work on images of any source; with ``rect`` its inputs have their shapes,
        None: where the graph can.
        """

    def blind(self, graph: DetectorGraph, paths: Sequence[Path], /) -> str | None:
        """Why a model that finds nothing in these images may be read wrongly, if it may."""
