"""Accuracy control: tensors fall back to float, the most useful first, until a drop holds.

Which tensor is worth most is measured on a trial network (:mod:`detq.quant.trial`): how much output
error goes if that tensor, and the layers that read it, are in float with their exact weights, per
predicted latency that it costs. Then the shortest run of that order is sought whose drop in
accuracy, measured by the caller, holds.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from detq.errors import AccuracyError
from detq.files import atomic_write, read_text
from detq.graph.detector_graph import DetectorGraph
from detq.progress import Progress
from detq.quant.fallback import QuantizerGroup, quantizer_groups
from detq.quant.histograms import distinct, histograms, take_histograms
from detq.quant.network import Image, Network
from detq.quant.observation import Images, Statistics
from detq.quant.passes.correct_biases import MeasureBiasErrors
from detq.quant.pipeline import run_passes
from detq.quant.quantizer import QuantizedDetector, fall_back_to_float
from detq.quant.trial import RANKING_IMAGES, TrialNetwork

_MOST_BYTES = 64 << 20
_NONSENSE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading another document than the one expected raises."""
_BINS = 256
MOST_FLOAT_MACS = 0.5
"""Beyond this share of the multiplications in float, INT8 is not worth having."""


@dataclass(frozen=True)
class HeldAccuracy:
    """What was found: the detector that holds, and what it cost.

    ``returned`` are the quantizers given back to float, ``drops`` the drops measured by the
    number of groups given back, ``drop`` the one that holds, ``cost`` the predicted latency
    that the groups given back add, as a share of that in plain INT8.
    """

    quantized: QuantizedDetector
    returned: tuple[str, ...]
    drops: dict[int, float]
    drop: float
    cost: float
    mac_share: float


class DropMemory:
    """What was measured so far, kept in a file so that one cut off goes on where it was."""

    def __init__(self, path: Path | None, key: str) -> None:
        self._path, self._key = path, key
        self.order: list[str] = []
        self.drops: dict[int, float] = {}
        if path is not None:
            with suppress(OSError, *_NONSENSE):
                self._read(path)

    def _read(self, path: Path) -> None:
        """Whatever is there and is not what :meth:`write` wrote counts as missing."""
        document = json.loads(read_text(path, most_bytes=_MOST_BYTES))
        if document["key"] == self._key and document["sha256"] == _digest(document):
            drops = {int(count): float(drop) for count, drop in document["drops"].items()}
            self.order, self.drops = [str(name) for name in document["order"]], drops

    def write(self) -> None:
        """Put what is known on disk, if there is a file for it.

        A folder that cannot be written costs a later run its time, nothing else.
        """
        if self._path is not None:
            drops = {str(count): drop for count, drop in self.drops.items()}
            document = {"key": self._key, "order": self.order, "drops": drops}
            document["sha256"] = _digest(document)
            with suppress(OSError):
                atomic_write(self._path, json.dumps(document).encode())

    def forget(self) -> None:
        """Remove the file: the search came to an end."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def _digest(document: Mapping[str, object]) -> str:
    """Of all but the digest itself: a flipped bit could make another drop."""
    content = {name: value for name, value in document.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def control_accuracy(
    quantized: QuantizedDetector,
    images: Images,
    drop_of: Callable[[DetectorGraph], float],
    *,
    max_drop: float,
    limit_s: float,
    memory: DropMemory,
    progress: Progress,
) -> HeldAccuracy:
    """Let as few tensors fall back as it takes until ``drop_of`` the graph is at most ``max_drop``.

    Raises AccuracyError if it cannot, or not within ``limit_s`` seconds; what was measured stays in
    ``memory``.
    """
    deadline = time.monotonic() + limit_s
    if 0 not in memory.drops:
        memory.drops[0] = drop_of(quantized.graph)
        memory.write()
    if memory.drops[0] <= max_drop:
        memory.forget()
        return HeldAccuracy(quantized, (), memory.drops, memory.drops[0], 0.0, 0.0)
    groups = _affordable(_ranked(quantized, images, memory, progress, deadline))
    candidates: dict[int, QuantizedDetector] = {}

    def holds(count: int) -> bool:
        names = [name for group in groups[:count] for name in group.members]
        if count not in memory.drops:
            _check_time(deadline, memory.drops)
            candidates[count] = fall_back_to_float(quantized, names, images)
            memory.drops[count] = drop_of(candidates[count].graph)
            memory.write()
        progress("falling back to float", min(count, len(groups)), len(groups))
        return memory.drops[count] <= max_drop

    failing, count = 0, 1
    while not holds(min(count, len(groups))):
        if count >= len(groups):
            raise AccuracyError(_refusal(quantized, memory.drops, max_drop))
        failing, count = count, 2 * count
    count = min(count, len(groups))
    while count - failing > 1:
        middle = (failing + count) // 2
        failing, count = (failing, middle) if holds(middle) else (middle, count)
    names = [name for group in groups[:count] for name in group.members]
    final = candidates.get(count) or fall_back_to_float(quantized, names, images)
    memory.forget()
    return HeldAccuracy(
        quantized=final,
        returned=tuple(names),
        drops=memory.drops,
        drop=memory.drops[count],
        cost=sum(group.cost for group in groups[:count]),
        mac_share=sum(group.mac_share for group in groups[:count]),
    )


def _ranked(
    quantized: QuantizedDetector,
    images: Images,
    memory: DropMemory,
    progress: Progress,
    deadline: float,
) -> list[QuantizerGroup]:
    """The groups, most error removed per latency first."""
    network = quantized.unfinished
    groups = {group.members[0]: group for group in quantizer_groups(network)}
    if set(memory.order) == set(groups):
        return [groups[name] for name in memory.order]
    if not network.bias_shifts and quantized.biases_corrected:
        network, _ = run_passes(network, [MeasureBiasErrors()], images)
    sample = list(images("reading images to rank with", RANKING_IMAGES))
    if not network.observed:
        network = _observed(network, sample)
    trial = TrialNetwork(network, sample)

    def heard(done: int) -> None:
        _check_time(deadline, memory.drops)
        progress("measuring what each tensor costs", done, len(groups))

    gains = trial.gains(network.ranges, frozenset(), [*groups.values()], progress=heard)
    worth = {group.members[0]: gain / max(group.cost, 1e-4) for group, gain in gains.items()}
    memory.order = sorted(worth, key=lambda name: -worth[name])
    memory.write()
    return [groups[name] for name in memory.order]


def _observed(network: Network, sample: Sequence[Image]) -> Network:
    """With what a few images say of every tensor, for recipes that did not look."""
    wants = histograms(network.model, network.quantizers, bins=_BINS)
    statistics = Statistics(network.model, lambda purpose, count: sample)
    statistics.want(distinct(wants))
    return replace(network, observed=take_histograms(statistics, wants))


def _affordable(groups: Iterable[QuantizerGroup]) -> list[QuantizerGroup]:
    """As many, in order, as leave most of the multiplications in INT8."""
    chosen, share = [], 0.0
    for group in groups:
        if share + group.mac_share <= MOST_FLOAT_MACS:
            chosen.append(group)
            share += group.mac_share
    return chosen


def _check_time(deadline: float, drops: dict[int, float]) -> None:
    if time.monotonic() > deadline:
        raise AccuracyError(
            f"the time limit is over, the least drop so far is {min(drops.values()):.2f}; run the "
            "same command again to go on from there, or with a higher --time-limit"
        )


def _refusal(quantized: QuantizedDetector, drops: dict[int, float], max_drop: float) -> str:
    return (
        f"{quantized.graph.spec.name}: with {100 * MOST_FLOAT_MACS:.0f}% of its work in float it "
        f"still loses {min(drops.values()):.2f}, more than --max-drop {max_drop:g}; nothing was "
        "written: allow more, or calibrate on other images"
    )
