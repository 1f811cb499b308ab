"""Weight grids on which the 16-bit sums of CPUs without VNNI cannot overflow.

Such a CPU (AVX2, first AVX-512) saturates where two neighbouring input channels have large weights
of one sign. NNCF's cure takes a bit from every weight; here a channel's step grows only as far as
its own worst pair of weights asks for (:data:`detq.numerics.cfws.PAIR_LIMIT`), and not at all where
no pair is that large. The INT8 model then computes the same on every CPU. That goes for whatever
multiplies by weights: transposed convolutions and the products of transformers saturate as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from detq.graph.layers import quantized_layers, symmetric_grid, write_grid
from detq.graph.surgery import WEIGHTED
from detq.numerics.cfws import Granularity, weight_step
from detq.quant.network import Network, Stage
from detq.quant.pipeline import Seen, WantsNothing


@dataclass(frozen=True)
class SetWeightGrids(WantsNothing):
    """Widen the grids of quantized weights where a pair could overflow.

    Coarse kernels stay on the grids that they were rounded to, and lose nothing. With fewer
    ``bits``, steps of convolutions so large that the integers do not exceed these.
    """

    bits: int = 8
    name: ClassVar[str] = "set weight grids"
    stage: ClassVar[Stage] = Stage.PLACED
    keeps_float: ClassVar[bool] = True

    def apply(self, network: Network, seen: Seen) -> Network:
        """Set them."""
        model = network.model.clone()
        coarse = {split.coarse: split.coarse_step for split in network.splits}
        widened, layers = 0, quantized_layers(model, *WEIGHTED)
        for layer in layers:
            before = layer.grid
            if layer.quantizer is None or before is None:
                continue
            step = coarse.get(layer.name)
            if step is None:
                granularity: Granularity = "tensor" if before.low.size == 1 else "channel"
                bits = self.bits if layer.is_convolution else 8
                step = weight_step(
                    layer.kernels, granularity=granularity, bits=bits, limit_pairs=True
                )
            grid = symmetric_grid(step.reshape(before.low.shape), before.levels)
            widened += bool((grid.step > before.step * (1 + 1e-4)).any())
            write_grid(layer.quantizer, grid)
        did = f"wider in {widened} of {len(layers)} layers, so that no pair overflows"
        return replace(network, model=model, did=did)
