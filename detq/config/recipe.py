"""Recipe YAML files, read into validated values. An unknown key is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from detq.errors import ConfigError
from detq.yaml_file import read_yaml

RangeMethod = Literal[
    "kl_cfws", "kl_entropy", "minmax", "mean_minmax", "mse", "percentile", "placement"
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightsConfig(_Strict):
    """How convolution weights are prepared before quantization.

    ``split: cfws`` writes a re-parameterized convolution as fine 3x3 + coarse 1x1 (paper, section
    3.1);
    ``split: residual`` keeps the whole kernel on the coarse grid and the residual as the fine
    kernel. ``rounding: gptq`` lets the weights of a layer make up for each other's
    rounding errors (:mod:`detq.numerics.gptq`). With fewer ``bits`` the integers are smaller; the
    runtime still stores and multiplies 8.
    """

    split: Literal["none", "cfws", "residual"] = "none"
    parts: tuple[Literal["backbone", "neck", "head"], ...] = ("backbone", "neck")
    granularity: Literal["channel", "tensor"] = "channel"
    bits: Annotated[int, Field(ge=2, le=8)] = 8
    rounding: Literal["nearest", "gptq"] = "nearest"

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, values: object) -> object:
        """Recipes that were written when GPTQ was called otherwise, or layers to split chosen."""
        if not isinstance(values, dict):
            return values
        known = {key: value for key, value in values.items() if key != "layers"}
        if values.get("layers", "all") not in ("all", "chosen", "measured"):
            return values
        if values.get("layers", "all") != "all":
            known["split"] = "none"
        if known.get("rounding") == "feedback":
            known["rounding"] = "gptq"
        return known


class RangesConfig(_Strict):
    """Which rule finds activation ranges in which part of the network.

    ``placement`` keeps the ranges of the library that placed the quantizers. ``alternatives`` are
    other rules, which a part takes where the network's output says so.
    """

    backbone: RangeMethod = "kl_cfws"
    neck: RangeMethod = "kl_cfws"
    head: RangeMethod = "kl_cfws"
    alternatives: tuple[RangeMethod, ...] = ()
    bins: Annotated[int, Field(ge=256, le=65536)] = 2048
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.999
    kl_keep: Annotated[float, Field(gt=0.5, le=1)] = 0.9999
    kl_least_gain: Annotated[float, Field(ge=1)] = 1.5

    @field_validator("alternatives")
    @classmethod
    def _check_alternatives(cls, rules: tuple[str, ...]) -> tuple[str, ...]:
        if "placement" in rules:
            raise ValueError("'placement' is no rule to choose a range by; leave it out")
        return rules

    @property
    def any_placement(self) -> bool:
        """True if some part keeps the ranges that placement gave it."""
        return "placement" in (self.backbone, self.neck, self.head)

    @property
    def only_placement(self) -> bool:
        """True if no range is chosen by a rule of detq's own."""
        return {self.backbone, self.neck, self.head} == {"placement"}


class Recipe(_Strict):
    """A complete description of one way to quantize.

    ``latency_budget`` is what tensors left in float may cost, as a share of the predicted latency
    of the plain INT8 convolutions. ``quantize_elementwise: false``
    leaves tensors in float that no convolution reads. ``equalize_channels`` brings the channels of
    tensors to like ranges (:mod:`detq.quant.passes.equalize_channels`). ``mixed_precision`` leaves
    tensors in float that no grid serves, and zero points out that cost more than they bring, both
    judged by the network's output (:mod:`detq.quant.trial`). ``without`` leaves passes out by their
    names, to see what each of them brings.
    """

    name: str
    description: str = ""
    weights: WeightsConfig = WeightsConfig()
    ranges: RangesConfig = RangesConfig()
    placement: Literal["performance", "mixed"] = "mixed"
    quantize_decode: bool = False
    quantize_elementwise: bool = True
    equalize_channels: bool = False
    mixed_precision: bool = False
    latency_budget: Annotated[float, Field(ge=0, le=1)] = 0.05
    overflow_fix: Literal["pairs", "disable", "first_layer_only", "enable"] = "pairs"
    bias_correction: Literal["none", "mean_error", "nncf", "nncf_accurate"] = "mean_error"
    without: tuple[str, ...] = ()
    calibration_images: Annotated[int, Field(ge=1)] = 300
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _without_search(cls, values: object) -> object:
        """Recipes that were written when ``search`` was a rule for ranges."""
        if not isinstance(values, dict) or not isinstance(values.get("ranges"), dict):
            return values
        known = {key: "mse" if rule == "search" else rule for key, rule in values["ranges"].items()}
        mixed = {"mixed_precision": True} if known != values["ranges"] else {}
        return {**values, **mixed, "ranges": known}

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.bias_correction.startswith("nncf") and not self.ranges.only_placement:
            raise ValueError("bias_correction: nncf needs ranges: placement in every part")
        if self.mixed_precision and self.ranges.only_placement:
            raise ValueError("mixed_precision: needs ranges by a rule in some part")
        if self.ranges.alternatives and not self.mixed_precision:
            raise ValueError("ranges.alternatives: needs mixed_precision: true, which judges them")
        own = self.weights.rounding != "nearest" or self.weights.bits != 8
        if own and self.overflow_fix != "pairs":
            raise ValueError("weights: rounding and bits need overflow_fix: pairs")
        return self


def read_recipe(path: Path) -> Recipe:
    """Recipe YAML -> validated value.

    Raises ConfigError for a missing file, broken YAML, an unknown key or a bad value.
    """
    document = read_yaml(path)
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """The first problem of a pydantic error as one line."""
    problem = error.errors()[0]
    where = ".".join(str(step) for step in problem["loc"]) or "file"
    if problem["type"] == "extra_forbidden":
        model: type[BaseModel] = Recipe
        for step in problem["loc"][:-1]:
            inner = model.model_fields[str(step)].annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                model = inner
        return f"unknown key {where!r}; known keys: {', '.join(model.model_fields)}"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
