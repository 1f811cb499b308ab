"""What the graph of each task takes and gives: all that anything below :mod:`detq.tasks` knows of
tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Task = Literal["detect", "classify"]
INPUT = "images"
"""float32 [B, 3, H, W], RGB, 0..1, of every task."""
OUTPUT = "predictions"
SCORES = "scores"


@dataclass(frozen=True)
class Contract:
    """The one output of a graph, float32, by the name ``output``.

    Its shape is [B, ``rows`` + nc, N] for a network that ``has_places``, one column for each place
    in the image where it looks, and [B, nc] for one that sees the image as a whole. ``use`` says
    what such a model is, to whoever runs it as another.
    """

    output: str
    rows: int
    has_places: bool
    use: str

    @property
    def rank(self) -> int:
        """How many dimensions the output has."""
        return 3 if self.has_places else 2

    def begin(self, class_count: int) -> tuple[int, int]:
        """How the output's shape begins, for one image."""
        return 1, self.rows + class_count

    def described(self, class_count: int) -> str:
        """``predictions [1, 84, N]``."""
        sides = [*map(str, self.begin(class_count)), "N"][: self.rank]
        return f"{self.output} [{', '.join(sides)}]"

    def size_step(self, strides: tuple[int, ...]) -> int:
        """What both sides of an image are multiples of, in pixels."""
        return max(strides) if self.has_places else 1


CONTRACTS: Mapping[Task, Contract] = {
    # centre x, centre y, width, height in input pixels, then scores after sigmoid
    "detect": Contract(
        output=OUTPUT,
        rows=4,
        has_places=True,
        use="is a detector, no classifier; use detq.detector",
    ),
    # scores after softmax
    "classify": Contract(
        output=SCORES,
        rows=0,
        has_places=False,
        use="classifies images, it finds no boxes; use detq.classifier",
    ),
}
