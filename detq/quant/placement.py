"""Where FakeQuantize nodes go: NNCF decides, on the split float graph, with the decode left
float.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from detq.config import Recipe
from detq.errors import GraphError
from detq.graph.detector_graph import DetectorGraph
from detq.graph.surgery import (
    CONVOLUTIONS,
    WEIGHTED,
    bypass,
    consumers,
    downstream,
    nodes_of_type,
    producer,
)
from detq.quant.calibration import SHARING_OPERATIONS, activation_nodes

Image = npt.NDArray[np.float32]
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
    convolution's quantizer rounds again. Returns how many there were.
    """
    idle = [
        node
        for node in activation_nodes(placed)
        if not any(user.get_type_name() in WEIGHTED | _HANDING_ON for user in consumers(node))
    ]
    for node in idle:
        bypass(node)
    placed.validate_nodes_and_infer_types()
    return len(idle)


def leave_in_float(placed: ov.Model, quantizers: Collection[str]) -> list[str]:
    """Take out the named activation quantizers, and those of the weights that meet their tensors.

    Changes the model; returns the names of the operations whose weights these are.
    """
    returned = []
    for node in activation_nodes(placed):
        if node.get_friendly_name() in quantizers:
            for reader in readers(node):
                if producer(reader, 1).get_type_name() == "FakeQuantize":
                    bypass(producer(reader, 1))
                    returned.append(reader.get_friendly_name())
            bypass(node)
    placed.validate_nodes_and_infer_types()
    return returned


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
    convolutions = [
        node for node in nodes_of_type(graph.model, *CONVOLUTIONS) if not _is_expectation(node)
    ]
    names = {node.get_name() for node in convolutions}
    last = [
        node for node in convolutions if not any(d.get_name() in names for d in downstream([node]))
    ]
    if not last:
        raise GraphError(f"{graph.spec.name}: no convolution in the graph; nothing to quantize")
    return sorted(
        node.get_friendly_name()
        for node in downstream(last)
        if node.get_type_name() not in ("Result", "Constant")
    )


def _is_expectation(convolution: ov.Node) -> bool:
    above = producer(convolution)
    while above.get_type_name() in ("Transpose", "Reshape"):
        above = producer(above)
    return bool(above.get_type_name() == "Softmax")


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
    import nncf  # noqa: PLC0415

    return nncf
