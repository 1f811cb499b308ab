"""One shard: its frames through the model, its rows into a file that appears whole."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from detq.data.frames import WHOLE, Cut, Frames, Item, read_frames_of
from detq.data.images import ImageBGR
from detq.data.sources import Entry
from detq.data.video import frame_rate
from detq.errors import ArtifactError, DetqError
from detq.files import staged
from detq.graph.detector_graph import DetectorGraph
from detq.records import Detections
from detq.runtime.options import RuntimeOptions
from detq.scale.manifest import Shard
from detq.scale.pictures import UNSTATED_FRAMES_PER_S, Draw, open_pictures
from detq.scale.rows import Origin, RowFormat, open_writer
from detq.scale.tracking import Tracks, between
from detq.tasks import Finder, Found, strategy_of

FILMED = ("video", "live")
Finding = tuple[Item, ImageBGR | DetqError, Found | None]
"""A frame, or why there is none, with what is found in it if it was looked at."""


@dataclass(frozen=True)
class Job:
    """How every shard of a run is done.

    ``rect`` is whether inputs have the frames' shapes, None: those of videos and live sources.
    ``class_ids`` are the classes that are kept, None all of them. ``draw`` writes pictures too.
    ``track`` gives what is filmed ids that stay, and boxes in the frames that ``cut`` leaves out.
    """

    directory: Path
    origin: Origin
    rows: RowFormat = "jsonl"
    cut: Cut = WHOLE
    rect: bool | None = None
    class_ids: frozenset[int] | None = None
    draw: bool = False
    track: bool = False


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
        self._finder: Callable[[bool | None], Finder] = cache(
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
                writer = stack.enter_context(open_writer(path, job.rows, tracked=job.track))
                draw = stack.enter_context(self._pictures(entry))
                if entry.kind == "live":
                    stack.enter_context(suppress(KeyboardInterrupt))
                for item, image, found, ids in stack.enter_context(closing(self._tracked(entry))):
                    writer.write(origin.row(item, image, found, ids if job.track else None))
                    draw(item, image, found, ids)
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

    def _pictures(self, entry: Entry) -> AbstractContextManager[Draw]:
        if not self._job.draw:
            return nullcontext(lambda *_: None)
        names = self._job.origin.class_names
        every = 1 if self._job.track else self._job.cut.every
        return open_pictures(self._job.directory, entry, names, every=every)

    def _finder_for(self, entry: Entry) -> Finder:
        """Of what is filmed by its shape, where the graph can, unless told otherwise."""
        rect = self._job.rect
        return self._finder(False if rect is None and entry.kind not in FILMED else rect)

    def _tracked(self, entry: Entry) -> Generator[tuple[*Finding, list[int]]]:
        """What is found in each frame; of what is filmed, with ids and in every frame if asked."""
        job, follows = self._job, self._job.track and entry.kind in FILMED
        cut = replace(job.cut, every=1) if follows else job.cut
        every = job.cut.every if follows else 1
        tracks: dict[str, Tracks] = {}

        def update(item: Item, found: Detections) -> list[int]:
            if item.source not in tracks:
                rate = frame_rate(Path(item.source)) or UNSTATED_FRAMES_PER_S
                tracks[item.source] = Tracks(
                    confidence=job.origin.confidence, frames_per_s=rate / every
                )
            return tracks[item.source].update(found, item.time_s)[1]

        frames = read_frames_of(entry, cut)
        with closing(in_order(frames, self._finder_for(entry), every=every)) as results:
            if not follows:
                for item, image, found in results:
                    yield item, image, self._kept(found), []
                return
            looked = ((item, image, self._kept(found)) for item, image, found in results)
            yield from between(
                (
                    (item, image, found, update(item, found) if found is not None else [])
                    for item, image, found in looked
                ),
                every,
            )

    def _kept(self, found: Any) -> Any:
        kept = self._job.class_ids
        return found if found is None or kept is None else found.of_classes(kept)


def in_order(frames: Frames, find: Finder, *, every: int = 1) -> Generator[Finding]:
    """Every frame with what is found in it, and in their turns those without: that could not be
    read, or of their source are none of every ``every``-th.
    """
    waiting: deque[tuple[Item, ImageBGR | DetqError | None]] = deque()
    numbers: Counter[str] = Counter()

    def images() -> Generator[ImageBGR]:
        with closing(frames):
            for item, image in frames:
                number = numbers[item.source]
                numbers[item.source] += every > 1
                if isinstance(image, DetqError) or number % every:
                    waiting.append((item, image))
                else:
                    waiting.append((item, None))
                    yield image

    with closing(find(images())) as results:
        for image, found in results:
            item, other = waiting.popleft()
            while other is not None:
                yield item, other, None
                item, other = waiting.popleft()
            yield item, image, found
    for item, other in waiting:
        if other is not None:
            yield item, other, None
