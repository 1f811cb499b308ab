"""Running calibration images through a network, once for all that is to be seen in it.

What is observed is the float network under the model: its FakeQuantize nodes are bypassed. A
:class:`Want` is one statistic that a pass asks for; wants of one network share a run over the
images as far as memory goes, and what an earlier run kept on disk is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.cores import core_count
from detq.errors import CalibrationError
from detq.graph.digest import digest
from detq.graph.execute import compile_exact, outputs_of
from detq.graph.surgery import bypass, nodes_of_type, with_outputs
from detq.quant.network import Image
from detq.quant.observation_store import ObservationStore

Result = TypeVar("Result")
Arrays = dict[str, npt.NDArray[np.float64]]
Images = Callable[[str, int | None], Iterable[Image]]
"""(what for, at most so many) -> calibration images, float32 [1, 3, H, W], afresh each time."""

RUN_BYTES = 512 * 2**20
"""What the statistics of one run may take in memory; where they take more there are several."""


class Observer(Protocol):
    """Counts what some tensors of a network hold, image by image."""

    @property
    def outputs(self) -> Sequence[ov.Output]:
        """What is to leave the network."""

    def update(self, values: Sequence[Image]) -> None:
        """The outputs for one image, in their order; they are overwritten afterwards."""

    def result(self) -> Any:
        """What was seen."""


class Want(Protocol[Result]):
    """A statistic over calibration images. Equal wants are the same statistic.

    ``purpose`` is what the user reads meanwhile, ``images`` the most that it needs (None: all) and
    ``size_bytes`` what it takes in memory. ``of_float`` is False if it depends on more than the
    float network.
    """

    @property
    def purpose(self) -> str:
        """What is said while images are read."""

    @property
    def images(self) -> int | None:
        """How many it needs."""

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""

    @property
    def of_float(self) -> bool:
        """Whether it depends on the float network alone."""

    def observer(self, network: FloatNetwork) -> Observer:
        """What counts; it may add operations behind the network's."""

    def key(self, network: FloatNetwork) -> str | None:
        """What it is kept under on disk, beside the network's digest; None if it is not kept."""

    def pack(self, result: Result) -> Arrays:
        """As arrays, to be kept."""

    def unpack(self, arrays: Arrays) -> Result:
        """The way back."""


class NotKept:
    """What wants inherit that are not kept on disk."""

    of_float: ClassVar[bool] = True

    def key(self, network: FloatNetwork) -> None:
        """Nothing."""

    def pack(self, result: Any) -> Arrays:
        """Never asked for."""
        raise NotImplementedError

    def unpack(self, arrays: Arrays) -> Any:
        """Never asked for."""
        raise NotImplementedError


class FloatNetwork:
    """A copy of a model whose FakeQuantize nodes are bypassed, with the same nodes and names.

    ``operations`` are those of the model in its order, the bypassed among them.
    """

    def __init__(self, model: ov.Model) -> None:
        self.model = model.clone()
        self.operations = self.model.get_ordered_ops()
        self._nodes = {node.get_friendly_name(): node for node in self.operations}
        for node in nodes_of_type(self.model, "FakeQuantize"):
            bypass(node)
        remaining = self.model.get_ordered_ops()
        self._place = {node.get_friendly_name(): index for index, node in enumerate(remaining)}

    def node(self, name: str) -> ov.Node:
        """By its friendly name."""
        return self._nodes[name]

    def place(self, name: str) -> int:
        """Where an operation comes in the order of the float network, whatever it is called."""
        return self._place[name]


class Statistics:
    """What the wants of one network come to, computed when the first of them is taken."""

    def __init__(
        self, model: ov.Model, images: Images, store: ObservationStore | None = None
    ) -> None:
        self._model, self._images, self._store = model, images, store
        self._wanted: dict[int, list[Want[Any]]] = {}
        self._found: dict[Want[Any], Any] = {}
        self._samples: dict[tuple[str, int], list[Image]] = {}

    def want(self, wants: Iterable[Want[Any]], taker: int = 0) -> None:
        """Announce what a taker will take, so that it can share a run; takers come in order."""
        self._wanted[taker] = list(wants)

    def take(self, want: Want[Result]) -> Result:
        """What the first taker announced, once: large statistics are not to stay in memory.

        Raises CalibrationError if there was no image.
        """
        taker = min(self._wanted)
        self._wanted[taker].remove(want)
        if want not in self._found:
            self._compute(self._run_with(want))
        result: Result = self._found[want]
        if not any(want in wants for wants in self._wanted.values()):
            del self._found[want]
        return result

    def next(self, model: ov.Model, *, keep: bool) -> Statistics:
        """Those of the next taker, for the model as it is then; ``keep`` what its float network
        shares with this one.
        """
        found = Statistics(model, self._images, self._store)
        found._samples = self._samples
        if keep:
            found._wanted = {taker - 1: wants for taker, wants in self._wanted.items() if taker}
            found._found = self._found
        return found

    def sample(self, purpose: str, count: int) -> list[Image]:
        """The first images, kept for whoever asks for the same again.

        Raises CalibrationError if there is none.
        """
        key = purpose, count
        if key not in self._samples:
            self._samples[key] = list(self._images(purpose, count))
        if not self._samples[key]:
            raise CalibrationError("no calibration image could be read; nothing to calibrate with")
        return self._samples[key]

    def images(self, purpose: str) -> Iterable[Image]:
        """All images one by one, read afresh whenever it is iterated over."""
        return _Afresh(lambda: self._images(purpose, None))

    def _run_with(self, want: Want[Any]) -> list[Want[Any]]:
        """Those still missing that fit in memory together, from ``want`` on."""
        run, size = [want], want.size_bytes
        for other in (other for wants in self._wanted.values() for other in wants):
            if other in self._found or other in run:
                continue
            size += other.size_bytes
            if size > RUN_BYTES:
                break
            run.append(other)
        return run

    def _compute(self, wants: list[Want[Any]]) -> None:
        network = FloatNetwork(self._model)
        keys = {want: want.key(network) for want in wants}
        kept, about = Arrays(), ""
        if self._store is not None and any(keys.values()):
            about = digest(network.model)
            kept = self._store.read(about) or {}
        known = {
            want: _fields(kept, key)
            for want, key in keys.items()
            if key is not None and _fields(kept, key)
        }
        self._found |= {want: want.unpack(fields) for want, fields in known.items()}
        missing = [want for want in wants if want not in known]
        if not missing:
            return
        self._found |= _observe(network, missing, self._images)
        if about and self._store is not None:
            for want in missing:
                if keys[want] is not None:
                    packed = want.pack(self._found[want])
                    kept |= {f"{keys[want]} {field}": array for field, array in packed.items()}
            self._store.write(about, kept)


def _fields(kept: Arrays, key: str) -> Arrays:
    """What is kept of one want, by the names of its fields."""
    found = ((name.rpartition(" "), array) for name, array in kept.items())
    return {field: array for (of, _, field), array in found if of == key}


def _observe(
    network: FloatNetwork, wants: Sequence[Want[Any]], images: Images
) -> dict[Want[Any], Any]:
    """One run over the images; uses the network up."""
    limits = [want.images for want in wants]
    count = None if None in limits else max(limit for limit in limits if limit is not None)
    observers = [want.observer(network) for want in wants]
    taps = [output for observer in observers for output in observer.outputs]
    compiled = compile_exact(with_outputs(network.model, taps))
    seen = 0
    with ThreadPoolExecutor(core_count()) as pool:
        for values in outputs_of(compiled, images(wants[0].purpose, count)):
            tasks, start = [], 0
            for observer, limit in zip(observers, limits, strict=True):
                end = start + len(observer.outputs)
                if limit is None or seen < limit:
                    tasks.append(pool.submit(observer.update, values[start:end]))
                start = end
            for task in tasks:
                task.result()
            seen += 1
    if seen == 0:
        raise CalibrationError(
            f"{wants[0].purpose} saw no data; give it at least one readable image"
        )
    return {want: observer.result() for want, observer in zip(wants, observers, strict=True)}


@dataclass(frozen=True)
class _Afresh:
    """Images that are read again for every pass, so that none need be kept."""

    read: Callable[[], Iterable[Image]]

    def __iter__(self) -> Iterator[Image]:
        return iter(self.read())
