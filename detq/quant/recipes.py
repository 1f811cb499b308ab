"""What a recipe says, as passes in their order."""

from __future__ import annotations

from detq.config import Recipe
from detq.errors import ConfigError
from detq.quant.network import Stage
from detq.quant.passes.choose_ranges import ChooseRanges
from detq.quant.passes.compress_weights import CompressWeights
from detq.quant.passes.correct_biases import CorrectBiases, MeasureBiasErrors
from detq.quant.passes.equalize_channels import EqualizeChannels
from detq.quant.passes.fall_back_to_float import FallBackToFloat
from detq.quant.passes.fold_zero_points import FoldZeroPoints
from detq.quant.passes.give_up_zero_points import GiveUpZeroPoints
from detq.quant.passes.place_quantizers import PlaceQuantizers
from detq.quant.passes.prune_quantizers import PruneQuantizers
from detq.quant.passes.round_weights import RoundWeights
from detq.quant.passes.set_weight_grids import SetWeightGrids
from detq.quant.passes.split_weights import SplitWeights
from detq.quant.passes.try_rules import TryRules
from detq.quant.pipeline import Pass

NEEDED = (PlaceQuantizers.name, ChooseRanges.name, CompressWeights.name)
"""Without these there is no INT8 model, or none that works."""


def passes_of(recipe: Recipe) -> tuple[Pass, ...]:
    """All passes of a recipe, from the float graph to the finished one.

    Raises ConfigError if ``recipe.without`` names one that it does not have, or cannot do without.
    """
    every = (*_float_passes(recipe), *_placing(recipe), *_ranges(recipe), *_finishing(recipe))
    names = [one.name for one in every if one.name not in NEEDED]
    unknown = sorted(set(recipe.without) - set(names))
    if unknown:
        raise ConfigError(
            f"recipe {recipe.name}: without: {unknown[0]!r} is none of {', '.join(names)}"
        )
    return tuple(one for one in every if one.name not in recipe.without)


def finishing_passes(recipe: Recipe) -> tuple[Pass, ...]:
    """Those behind the last choice of a range or of a tensor that falls back to float."""
    return tuple(one for one in passes_of(recipe) if one.stage == Stage.FINISHED)


def _finishing(recipe: Recipe) -> tuple[Pass, ...]:
    passes: list[Pass] = []
    if recipe.bias_correction == "mean_error":
        passes.append(CorrectBiases())
    if not recipe.ranges.any_placement:
        passes.append(FoldZeroPoints())
    return (*passes, CompressWeights())


def _float_passes(recipe: Recipe) -> list[Pass]:
    weights, passes = recipe.weights, list[Pass]()
    if recipe.equalize_channels:
        passes.append(EqualizeChannels(into_weights=weights.granularity == "channel"))
    if weights.split != "none":
        passes.append(SplitWeights(weights, recipe.overflow_fix == "pairs"))
    return passes


def _placing(recipe: Recipe) -> list[Pass]:
    weights, limit_pairs = recipe.weights, recipe.overflow_fix == "pairs"
    corrections = {"nncf": "fast", "nncf_accurate": "accurate"}
    passes: list[Pass] = [
        PlaceQuantizers(
            preset=recipe.placement,
            decode=recipe.quantize_decode,
            per_channel=weights.granularity == "channel",
            keep_ranges=recipe.ranges.any_placement,
            bias_correction=corrections.get(recipe.bias_correction, "none"),  # type: ignore[arg-type]
            overflow_fix="disable" if recipe.overflow_fix == "pairs" else recipe.overflow_fix,
            images=recipe.calibration_images,
        )
    ]
    if weights.split != "none" or not recipe.quantize_elementwise:
        passes.append(PruneQuantizers(elementwise=recipe.quantize_elementwise))
    if limit_pairs:
        passes.append(SetWeightGrids(bits=weights.bits))
    if weights.rounding == "gptq":
        passes.append(RoundWeights("gptq", weights.bits, limit_pairs))
    elif recipe.mixed_precision:
        passes.append(RoundWeights("nearest"))
    return passes


def _ranges(recipe: Recipe) -> list[Pass]:
    rules, symmetric = recipe.ranges, recipe.placement == "performance"
    if rules.only_placement:
        return []
    passes: list[Pass] = [ChooseRanges(rules, symmetric)]
    if not recipe.mixed_precision:
        return passes
    if rules.alternatives:  # before biases make up for what one rule clips
        passes.append(TryRules(rules, symmetric))
    if recipe.bias_correction == "mean_error":
        passes.append(MeasureBiasErrors())
    return [*passes, FallBackToFloat(recipe.latency_budget), GiveUpZeroPoints()]
