"""Where FakeQuantize nodes go: NNCF decides, on the split float graph, with the decode left
float.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.config import Recipe
from detq.errors import GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.parts import last_convolutions
from detq.graph.surgery import (
    WEIGHTED,
    bypass,
    constant_value,
    consumers,
    downstream,
    nodes_of_type,
    producer,
    producers,
    replace_constant_input,
)
from detq.process import home_to_ask_for
from detq.quant.calibration import SHARING_OPERATIONS, activation_nodes
from detq.quant.split import rounds_fine_branch

Image = npt.NDArray[np.float32]
Array = npt.NDArray[np.float32]
_HANDING_ON = SHARING_OPERATIONS | {"Interpolate", "FakeQuantize"}


def place_quantizers(graph: DetectorGraph, recipe: Recipe, images: Iterable[Image]) -> ov.Model:
    """A copy of the graph with FakeQuantize nodes on weights and activations; weights stay float.

    ``images`` float32 [1, 3, H, W] give the activation ranges that NNCF would choose; a single one
    is enough where detq replaces them. They are iterated over more than once, one at a time in
    memory. Biases are corrected here only if the recipe wants NNCF's
    own correction, which belongs to NNCF's own ranges.
    """
    nncf = _nncf()
    weights = nncf.quantization.advanced_parameters.QuantizationParameters(
        per_channel=recipe.weights.granularity == "channel"
    )
    advanced = nncf.AdvancedQuantizationParameters(
        disable_bias_correction=not recipe.bias_correction.startswith("nncf"),
        weights_quantization_params=weights,
        overflow_fix=nncf.OverflowFix(
            "disable" if recipe.overflow_fix == "pairs" else recipe.overflow_fix
        ),
        backend_params={"compress_weights": False},
    )
    ignored = [] if recipe.quantize_decode else decode_nodes(graph)
    with quiet_nncf():
        return nncf.quantize(
            graph.model.clone(),
            nncf.Dataset(images),
            preset=nncf.QuantizationPreset(recipe.placement),
            target_device=nncf.TargetDevice.CPU,
            subset_size=recipe.calibration_images,
            fast_bias_correction=recipe.bias_correction != "nncf_accurate",
            ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
            advanced_parameters=advanced,
        )


def drop_idle_quantizers(placed: ov.Model) -> int:
    """Take out activation quantizers that only arithmetic reads; changes the model.

    NNCF also quantizes the operands of products, sums and means, whose results the next
    convolution's quantizer rounds again. Fine branches keep theirs where the sum is rounded next:
    the runtime then adds them inside the coarse convolution. Returns how many went.
    """
    idle = [
        node
        for node in activation_nodes(placed)
        if not any(user.get_type_name() in WEIGHTED | _HANDING_ON for user in consumers(node))
    ]
    dropped = 0
    for node in sorted(idle, key=rounds_fine_branch):  # what stays depends on what the others leave
        if not (rounds_fine_branch(node) and _is_rounded_next(consumers(node)[0])):
            bypass(node)
            dropped += 1
    placed.validate_nodes_and_infer_types()
    return dropped


def _is_rounded_next(node: ov.Node) -> bool:
    """True if quantizers alone read the node, or what activation functions make of it."""
    own, pending = {node.get_name()}, consumers(node)
    while pending:
        user = next((user for user in pending if _is_function_of(user, own)), None)
        if user is None:
            return False
        pending = [other for other in pending if other.get_name() != user.get_name()]
        if user.get_type_name() != "FakeQuantize":
            own.add(user.get_name())
            pending += consumers(user)
    return True


def _is_function_of(node: ov.Node, names: Collection[str]) -> bool:
    """True for a quantizer, or for arithmetic on the named nodes and constants alone."""
    if node.get_type_name() == "FakeQuantize":
        return True
    if node.get_type_name() in WEIGHTED | {"Result"}:
        return False
    return all(
        above.get_name() in names or constant_value(above) is not None for above in producers(node)
    )


def leave_in_float(placed: ov.Model, quantizers: Collection[str]) -> list[str]:
    """Take out the named activation quantizers, and those of weights that meet float tensors then.

    An operation with only one of its operands in INT8 computes in float on weights that are
    unpacked at every start; OpenVINO 2026.4 also mixes such weights up now and then if it compiles
    for several streams. Changes the model; returns the names of the operations whose weights these
    are.
    """
    quantized = [node for node in nodes_of_type(placed, *WEIGHTED) if _is_quantized(node)]
    for node in activation_nodes(placed):
        if node.get_friendly_name() in quantizers:
            bypass(node)
    returned = [node for node in quantized if not _is_quantized(node)]
    for node in returned:
        bypass(producer(node, 1))
    placed.validate_nodes_and_infer_types()
    return [node.get_friendly_name() for node in returned]


def _is_quantized(node: ov.Node) -> bool:
    """True if both operands of a weighted operation come from quantizers."""
    return all(_hands_on_quantized(above) for above in producers(node)[:2])


def _hands_on_quantized(node: ov.Node) -> bool:
    if node.get_type_name() == "FakeQuantize":
        return True
    inputs = [above for above in producers(node) if constant_value(above) is None]
    return node.get_type_name() in _HANDING_ON and all(map(_hands_on_quantized, inputs))


def return_to_float(placed: ov.Model, exact: ov.Model, quantizers: Collection[str]) -> None:
    """As :func:`leave_in_float`, and weights and biases become those of ``exact`` again.

    ``exact`` is the float graph that the other was placed on. Changes ``placed``.
    """
    returned = set(leave_in_float(placed, quantizers))
    before = {node.get_friendly_name(): node for node in exact.get_ops()}
    for node in nodes_of_type(placed, *WEIGHTED):
        if node.get_friendly_name() in returned:
            for user, index, _, wanted in list(exact_constants(node, before)):
                replace_constant_input(user, index, wanted)


def exact_constants(
    convolution: ov.Node, before: Mapping[str, ov.Node]
) -> Iterator[tuple[ov.Node, int, Array, Array]]:
    """(node, input, value now, value before) of a convolution's weight and of its bias.

    ``before`` are the nodes of the float graph by their friendly names.
    """
    biases = [user for user in consumers(convolution) if user.get_type_name() == "Add"]
    for node in (convolution, *biases):
        original = before.get(node.get_friendly_name())
        for index in range(2):
            now = constant_value(producer(node, index))
            value = None if original is None else constant_value(producer(original, index))
            if now is not None and value is not None:
                yield node, index, now, value.reshape(now.shape)


def readers(quantizer: ov.Node) -> list[ov.Node]:
    """Weighted operations that read a quantizer's tensor, also through ones that hand it on."""
    found = []
    for node in consumers(quantizer):
        if node.get_type_name() in WEIGHTED:
            found.append(node)
        elif node.get_type_name() in _HANDING_ON:
            found += readers(node)
    return found


def decode_nodes(graph: DetectorGraph) -> list[str]:
    """Names of the operations behind the last feature convolutions: biases, DFL, anchors, …

    A convolution that takes the expected value of a softmax (DFL, as some exporters write it) is
    part of the decode. Raises GraphError if the graph has no other convolution.
    """
    last = last_convolutions(graph.model)
    if not last:
        raise GraphError(f"{graph.spec.name}: no convolution in the graph; nothing to quantize")
    return sorted(
        node.get_friendly_name()
        for node in downstream(last)
        if node.get_type_name() not in ("Result", "Constant")
    )


@contextlib.contextmanager
def quiet_nncf() -> Iterator[None]:
    """NNCF logs every node it leaves out and draws a bar of its own on stdout; neither helps
    here.
    """
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _nncf() -> Any:
    """Imported here because it takes seconds, which ``detq --help`` need not wait for."""
    with home_to_ask_for():
        import nncf  # noqa: PLC0415

    return nncf
