"""Running passes one after the other over a network, and telling what each did."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, cast

from threadpoolctl import threadpool_limits

from detq.progress import Progress, silent
from detq.quant.network import Network, Stage
from detq.quant.observation import Images, Statistics, Want
from detq.quant.observation_store import ObservationStore


class Pass(Protocol):
    """One step of quantization: a frozen dataclass whose fields are its options.

    ``keeps_float`` says that all tensors of the float network stay what they are, so that what the
    next pass wants can be observed along with what this one wants.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]
    keeps_float: ClassVar[bool]

    def wants(self, network: Network) -> Sequence[Want[Any]]:
        """The statistics that it needs to see."""

    def apply(self, network: Network, seen: Seen) -> Network:
        """A new network; the models of the one given are not changed."""


class WantsNothing:
    """What passes inherit that look at the network alone."""

    def wants(self, network: Network) -> Sequence[Want[Any]]:
        """Nothing."""
        return ()


@dataclass(frozen=True)
class Seen:
    """What a pass may use beside the network: the statistics it wanted, and the user's ear."""

    statistics: Statistics
    report: Progress


@dataclass(frozen=True)
class Step:
    """What one pass did: its name and options, one line on what came of it, and its wall time."""

    name: str
    options: dict[str, Any]
    did: str
    seconds: float


def run_passes(
    network: Network,
    passes: Sequence[Pass],
    images: Images,
    *,
    store: ObservationStore | None = None,
    report: Progress = silent,
) -> tuple[Network, tuple[Step, ...]]:
    """The network behind all passes, and what each of them did.

    ``images`` are read once for all that neighbouring passes want of one float network; ``store``
    keeps what was seen. Raises CalibrationError if there was no image or the activations are
    unusable.
    """
    steps = []
    statistics = Statistics(network.model, images, store)
    for index, current in enumerate(passes):
        start = time.monotonic()
        statistics.want(current.wants(network))
        for ahead, after in enumerate(passes[index + 1 :], start=1):
            if not passes[index + ahead - 1].keeps_float:
                break
            statistics.want((want for want in after.wants(network) if want.of_float), ahead)
        with threadpool_limits(1, user_api="blas"):  # its threads and the network's spin apart
            network = current.apply(replace(network, did=""), Seen(statistics, report))
        seconds = time.monotonic() - start
        steps.append(Step(current.name, options_of(current), network.did, seconds))
        statistics = statistics.next(network.model, keep=current.keeps_float)
    return network, tuple(steps)


def options_of(one: Pass) -> dict[str, Any]:
    """The options of a pass by name."""
    return {field.name: getattr(one, field.name) for field in fields(cast(Any, one))}
