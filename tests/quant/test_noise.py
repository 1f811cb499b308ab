from __future__ import annotations

import numpy as np
import pytest
from small_graphs import Source, images, repvgg_like

from detq.config import RangesConfig, Recipe, WeightsConfig
from detq.errors import CalibrationError
from detq.quant.noise import tensor_noise
from detq.quant.quantizer import QuantizedDetector, fall_back_to_float, quantize_graph

IMAGES = images(6)
MINMAX = RangesConfig(backbone="minmax", neck="minmax", head="minmax")


def _quantized(bits: int = 8, split: str = "cfws") -> QuantizedDetector:
    weights = WeightsConfig(split=split, bits=bits)  # type: ignore[arg-type]
    return quantize_graph(
        repvgg_like(), Recipe(name="t", weights=weights, ranges=MINMAX), Source(IMAGES)
    )


def test_every_rounded_tensor_has_its_noise() -> None:
    quantized = _quantized(split="none")
    noise = tensor_noise(quantized, IMAGES[:2])
    assert [tensor.name for tensor in noise] == [q.name for q in quantized.quantizers]
    assert all(10 < tensor.sqnr_db < 80 for tensor in noise)
    assert {tensor.part for tensor in noise} == {"backbone", "neck", "head"}


def test_fewer_bits_are_more_noise() -> None:
    fine, coarse = (tensor_noise(_quantized(bits, "none"), IMAGES[:2]) for bits in (8, 4))
    means = [np.mean([tensor.sqnr_db for tensor in some[1:]]) for some in (fine, coarse)]
    assert means[0] > means[1] + 5


def test_tensors_in_float_are_left_out() -> None:
    quantized = _quantized()
    name = quantized.quantizers[-1].name
    returned = fall_back_to_float(quantized, [name], Source(IMAGES))
    assert name not in {tensor.name for tensor in tensor_noise(returned, IMAGES[:2])}


def test_without_images_it_says_so() -> None:
    with pytest.raises(CalibrationError, match="no image to measure noise on"):
        tensor_noise(_quantized(), [])
