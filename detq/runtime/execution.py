"""What a compiled model really executes: each convolution's precision and share of the work."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import openvino as ov

# Operation -> whether a weight meets every output pixel (else, transposed, every input pixel).
_CONVOLUTIONS = {
    "Convolution": True,
    "GroupConvolution": True,
    "ConvolutionBackpropData": False,
    "GroupConvolutionBackpropData": False,
}
_EXECUTED_CONVOLUTIONS = frozenset({"Convolution", "Deconvolution"})
PRECISIONS = {"i8": "int8", "u8": "int8", "bf16": "bf16", "f16": "fp16", "f32": "fp32"}
"""OpenVINO's element types -> what detq calls the precision of a kernel."""


@dataclass(frozen=True)
class ExecutedConvolution:
    """One kernel that the runtime executes, with the convolutions of the model that it stands for.

    ``precision`` is int8, bf16, fp16 or fp32; ``macs`` counts multiply-accumulates per inference.
    """

    name: str
    precision: str
    macs: int


def convolution_macs(model: ov.Model) -> dict[str, int]:
    """Friendly name of each convolution -> multiply-accumulates per inference.

    A weight is used once for every output pixel and image, whatever the groups; in a transposed
    convolution for every input pixel. The model's shapes must be static.
    """
    macs = {}
    for node in model.get_ops():
        per_output = _CONVOLUTIONS.get(node.get_type_name())
        if per_output is None:
            continue
        pixels = node.get_output_shape(0) if per_output else node.get_input_shape(0)
        macs[node.get_friendly_name()] = _macs(pixels, node.get_input_shape(1))
    return macs


def executed_convolutions(
    compiled: ov.CompiledModel, macs: Mapping[str, int]
) -> tuple[ExecutedConvolution, ...]:
    """The convolution kernels of a compiled model, in the order of its runtime graph.

    ``macs`` comes from :func:`convolution_macs` of the model before compilation. One kernel may
    stand for several convolutions (a depthwise one fused into its neighbour); a kernel that the
    runtime named anew is counted from its own shapes.
    """
    executed = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if info["layerType"].astype(str) not in _EXECUTED_CONVOLUTIONS:
            continue
        originals = info["originalLayersNames"].astype(str).split(",")
        known = [macs[name] for name in originals if name in macs]
        kernel = info["runtimePrecision"].astype(str)
        executed.append(
            ExecutedConvolution(
                name=node.get_friendly_name(),
                precision=PRECISIONS.get(kernel, kernel),
                macs=sum(known) if known else _own_macs(node),
            )
        )
    return tuple(executed)


def precision_shares(convolutions: Iterable[ExecutedConvolution]) -> dict[str, float]:
    """Precision -> its share of all convolution work, 0..1, the largest first."""
    work: Counter[str] = Counter()
    for convolution in convolutions:
        work[convolution.precision] += convolution.macs
    total = work.total()
    return {precision: macs / total for precision, macs in work.most_common()} if total else {}


def constant_bytes(model: ov.Model) -> int:
    """Bytes of all constants of a model, which is what its weight file holds."""
    return sum(
        math.ceil(
            math.prod(node.get_output_shape(0)) * node.get_output_element_type(0).bitwidth / 8
        )
        for node in model.get_ops()
        if node.get_type_name() == "Constant"
    )


def _own_macs(node: ov.Node) -> int:
    transposed = node.get_rt_info()["layerType"].astype(str) == "Deconvolution"
    pixels = node.get_input_shape(0) if transposed else node.get_output_shape(0)
    return _macs(pixels, node.get_input_shape(1))


def _macs(pixels_shape: Iterable[int], weights_shape: Iterable[int]) -> int:
    """[B, C, spatial…] and the weights' shape -> multiply-accumulates."""
    batch, _, *spatial = pixels_shape
    return batch * math.prod(spatial) * math.prod(weights_shape)
