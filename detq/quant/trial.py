"""The one judge of ranges and of fallback to float: a network whose grids are inputs.

Nothing is compiled again between two tries. Weights lie on their grids and biases are corrected,
so that what is tried is what is built afterwards; with its switches, a convolution computes with
exact weights while a tensor that it reads is in float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from detq.errors import CalibrationError
from detq.graph.execute import compile_exact
from detq.graph.layers import add_to_biases, grid_of, quantized_layers
from detq.graph.surgery import bypass, nodes_by_name, nodes_of_type
from detq.numerics.histogram import ActivationStatistics
from detq.numerics.integer_range import Range
from detq.numerics.output_error import output_error
from detq.progress import silent
from detq.quant.fallback import QuantizerGroup, exact_constants
from detq.quant.network import Image, Network, Ranges
from detq.quant.observation import Statistics
from detq.quant.quantizers import activation_nodes, readers

Errors = npt.NDArray[np.float64]

SEARCH_IMAGES = 16
"""With eight, what a choice won on YOLOv6-Lite-S was gone on other images."""
RANKING_IMAGES = 2
"""So many are enough to tell which tensors matter."""
_STOPS = (4, 8)  # what is worse on so many images is not tried on the others
_FINE = 2.0**-20  # step of a grid, relative to its range, that is as good as float


def search_images(statistics: Statistics) -> list[Image]:
    """The images that ranges and fallback are judged on."""
    return statistics.sample("reading images to search with", SEARCH_IMAGES)


class TrialNetwork:
    """A network after its weights are rounded, judged by its output error on some images.

    ``network.observed`` says how far each tensor reaches, ``network.bias_shifts`` what to add to
    biases. Tensors of ``network.in_float`` are in float already. Without ``switches`` it is
    faster, and no other can be. Raises CalibrationError if there was no image.
    """

    def __init__(self, network: Network, images: Sequence[Image], *, switches: bool = True) -> None:
        if not images:
            raise CalibrationError("judging ranges saw no data; give it a readable image")
        reference = compile_exact(network.float_model)
        self._samples = [(image, reference(image)[0].copy()) for image in images]
        model = network.model.clone()
        add_to_biases(model, network.bias_shifts)
        self._read_by = {
            node.get_friendly_name(): {reader.get_friendly_name() for reader in readers(node)}
            for node in activation_nodes(model)
        }
        self._switched, switched = list[str](), list[ov.Node]()
        if switches:
            self._switched, switched = _switch_weights(model, network.float_model)
        self._own, inputs = _ranges_as_inputs(model)
        for node in nodes_of_type(model, "FakeQuantize"):
            bypass(node)  # weights lie on their grids already
        inputs = [*model.get_parameters(), *inputs, *switched]
        trial = ov.Model(model.get_results(), inputs, "trial")
        compiled = compile_exact(trial, several=True)
        count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = [compiled.create_infer_request() for _ in range(count)]
        self._wide = {
            name: [_wide(channel) for channel in channels]
            for name, channels in network.observed.items()
        }

    def errors(
        self,
        ranges: Ranges,
        in_float: Iterable[str] = (),
        *,
        than: Errors | None = None,
        first: int | None = None,
    ) -> Errors:
        """The output error on each image, or on the ``first`` so many.

        Infinite on the later ones if it is worse ``than`` another on the first few.
        """
        left = frozenset(in_float)
        inputs = [*self._grids(ranges, left), *self._switches(left)]
        count = len(self._samples[:first])
        found = np.full(count, np.inf)
        for start, stop in pairwise([0, *(stop for stop in _STOPS if stop < count), count]):
            if than is not None and found[:start].sum() > than[:start].sum():
                break
            for index in range(start, stop, len(self._requests)):
                together = range(index, min(index + len(self._requests), stop))
                found[index : together.stop] = self._infer(together, inputs)
        return found

    def _infer(self, indices: Sequence[int], inputs: Sequence[Image]) -> list[float]:
        """The errors on some images, at the same time."""
        pairs = list(zip(self._requests, indices, strict=False))
        for request, index in pairs:
            request.start_async([self._samples[index][0], *inputs], share_inputs=True)
        errors = []
        for request, index in pairs:
            request.wait()
            errors.append(output_error(self._samples[index][1], request.get_output_tensor(0).data))
        return errors

    def gains(
        self,
        ranges: Ranges,
        in_float: frozenset[str],
        groups: Sequence[QuantizerGroup],
        *,
        before: float | None = None,
        progress: Callable[[int], None] = silent,
    ) -> dict[QuantizerGroup, float]:
        """How much less the error is without each group's grid, on the first few images."""
        if before is None:
            before = float(self.errors(ranges, in_float, first=RANKING_IMAGES).mean())
        gains = {}
        for done, group in enumerate(groups, start=1):
            errors = self.errors(ranges, in_float.union(group.members), first=RANKING_IMAGES)
            gains[group] = before - float(errors.mean())
            progress(done)
        return gains

    def _grids(self, ranges: Ranges, in_float: frozenset[str]) -> list[Image]:
        """Low end, high end and step of every quantizer, in the order of the model's inputs.

        A quantizer without a range keeps its own.
        """
        grids = []
        for name, own in self._own.items():
            fine = name in in_float
            channels = self._wide[name] if fine else ranges.get(name)
            low, high = own
            if channels is not None:
                shape = low.shape
                low = np.array([channel.low for channel in channels], np.float32).reshape(shape)
                high = np.array([channel.high for channel in channels], np.float32).reshape(shape)
            step = (high - low) * np.float32(_FINE if fine else 1 / 255)
            grids += [low, high, step]
        return grids

    def _switches(self, in_float: frozenset[str]) -> list[Image]:
        """1 for each convolution with weights to switch that computes in float, else 0."""
        returned = {reader for name in in_float for reader in self._read_by.get(name, ())}
        return [np.array([name in returned], np.float32) for name in self._switched]


def _wide(statistics: ActivationStatistics) -> Range:
    """A range that clips nothing, of a tensor that stays in float."""
    low, high = min(statistics.low, 0.0), max(statistics.high, 0.0)
    margin = 0.05 * (high - low) + 1e-3
    return Range(low - margin, high + margin)


def _ranges_as_inputs(
    model: ov.Model,
) -> tuple[dict[str, tuple[Image, Image]], list[ov.Node]]:
    """Activation quantizers read low, high and step from new inputs; changes the model.

    Three inputs for each quantizer; by its name the low and high end that it had.
    """
    own, inputs = {}, []
    for node in activation_nodes(model):
        grid = grid_of(node)
        if grid is None:
            raise CalibrationError(f"{node.get_friendly_name()}: its grid is not constant")
        low, high, step = (ops.parameter(grid.low.shape, np.float32) for _ in range(3))
        clipped = ops.minimum(ops.maximum(node.input_value(0), low), high)
        level = ops.round(ops.divide(ops.subtract(clipped, low), step), "half_to_even")
        node.output(0).replace(ops.add(ops.multiply(level, step), low).output(0))
        own[node.get_friendly_name()] = (grid.low, grid.high)
        inputs += [low, high, step]
    return own, inputs


def _switch_weights(model: ov.Model, exact: ov.Model) -> tuple[list[str], list[ov.Node]]:
    """Rounded weights, and the biases behind them, get a switch to exact ones; changes the model.

    One input for each convolution named, 0 for rounded and 1 for exact.
    """
    before = nodes_by_name(exact)
    names, inputs = [], []
    for layer in quantized_layers(model):
        switch = ops.parameter([1], np.float32)
        for node, index, rounded, wanted in list(exact_constants(layer, before)):
            change = ops.multiply(ops.constant(wanted - rounded), switch)
            mixed = ops.add(ops.constant(np.asarray(rounded, np.float32)), change)
            node.input(index).replace_source_output(mixed.output(0))
        names.append(layer.name)
        inputs.append(switch)
    return names, inputs
