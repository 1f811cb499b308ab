"""One shard: its frames through the model, its rows into a file that appears whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from detq.data.frames import WHOLE, Cut, Frames, Item, read_frames_of
from detq.data.images import ImageBGR
from detq.data.sources import Entry
from detq.errors import ArtifactError, DetqError
from detq.files import staged
from detq.graph.detector_graph import DetectorGraph
from detq.records import Detections
from detq.runtime.options import RuntimeOptions
from detq.scale.manifest import Shard
from detq.scale.pictures import open_pictures
from detq.scale.rows import Origin, RowFormat, open_writer
from detq.tasks import Finder, Found, strategy_of

FILMED = ("video", "live")


@dataclass(frozen=True)
class Job:
    """How every shard of a run is done.

    ``rect`` is whether inputs have the frames' shapes, None: those of videos and live sources.
    ``class_ids`` are the classes that are kept, None all of them. ``draw`` writes pictures too.
    """

    directory: Path
    origin: Origin
    rows: RowFormat = "jsonl"
    cut: Cut = WHOLE
    rect: bool | None = None
    class_ids: frozenset[int] | None = None
    draw: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of one shard: its frames, those that could not be read, and what was found."""

    index: int
    frames: int
    errors: int
    objects: int


class Worker:
    """A model at work on shards, one after another."""

    def __init__(
        self, graph: DetectorGraph, job: Job, options: RuntimeOptions | None = None
    ) -> None:
        self._job = job
        self._finder: Callable[[bool], Finder] = cache(
            lambda rect: strategy_of(graph.spec).finder(
                graph,
                confidence=job.origin.confidence,
                iou=job.origin.iou,
                rect=rect,
                options=options,
            )
        )

    def do(self, shard: Shard, step: Callable[[], None] | None = None) -> Outcome:
        """Read, find and write one shard; ``step`` is called for each frame.

        Ctrl-C ends a live source as its own end would. Raises ArtifactError if the rows cannot be
        written, DetqError for whatever ends a run.
        """
        job, origin, part = self._job, self._job.origin, shard.part
        frames = errors = objects = 0
        try:
            entry = shard.entry()
            with ExitStack() as stack:
                path = stack.enter_context(staged(part))
                writer = stack.enter_context(open_writer(path, job.rows))
                draw = (
                    stack.enter_context(
                        open_pictures(job.directory, entry, origin.class_names, every=job.cut.every)
                    )
                    if job.draw
                    else None
                )
                if entry.kind == "live":
                    stack.enter_context(suppress(KeyboardInterrupt))
                for item, image, found in stack.enter_context(closing(self._found(entry))):
                    writer.write(origin.row(item, image, found))
                    if draw and isinstance(found, Detections) and not isinstance(image, DetqError):
                        draw(item, image, found)
                    frames += 1
                    errors += found is None
                    objects += 0 if found is None else len(found)
                    if step is not None:
                        step()
        except OSError as error:
            raise ArtifactError(
                f"{part}: cannot be written ({error.strerror or error}); make room, then run the "
                "same command again"
            ) from None
        return Outcome(shard.index, frames, errors, objects)

    def _found(self, entry: Entry) -> Generator[tuple[Item, ImageBGR | DetqError, Found | None]]:
        rect = entry.kind in FILMED if self._job.rect is None else self._job.rect
        kept = self._job.class_ids
        frames = read_frames_of(entry, self._job.cut)
        with closing(in_order(frames, self._finder(rect))) as results:
            for item, image, found in results:
                only = found if found is None or kept is None else found.of_classes(kept)
                yield item, image, only


def in_order(
    frames: Frames, find: Finder
) -> Generator[tuple[Item, ImageBGR | DetqError, Found | None]]:
    """Every frame with what is found in it, and in their turns those that could not be read."""
    waiting: deque[tuple[Item, DetqError | None]] = deque()

    def images() -> Generator[ImageBGR]:
        with closing(frames):
            for item, image in frames:
                if isinstance(image, DetqError):
                    waiting.append((item, image))
                else:
                    waiting.append((item, None))
                    yield image

    with closing(find(images())) as results:
        for image, found in results:
            item, error = waiting.popleft()
            while error is not None:
                yield item, error, None
                item, error = waiting.popleft()
            yield item, image, found
    for item, error in waiting:
        if error is not None:
            yield item, error, None
