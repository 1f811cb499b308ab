"""Recipe and dataset YAML files, read into validated values. An unknown key is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from detq.errors import ConfigError, shown
from detq.yaml_file import read_yaml

RangeMethod = Literal[
    "kl_cfws", "kl_entropy", "minmax", "mean_minmax", "mse", "percentile", "placement", "search"
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetConfig(_Strict):
    """A dataset description in the layout that YOLOv6 and Ultralytics read, plus ``annotations``.

    Each split is an image folder or a text file that lists images. Ground truth is, per split, the
    COCO JSON named under ``annotations``, or else the YOLO label files beside the images
    (``images/x.jpg`` -> ``labels/x.txt``).
    """

    path: Path = Path()
    train: str | None = None
    val: str | None = None
    test: str | None = None
    names: dict[int, str]
    nc: int | None = None
    annotations: dict[str, str] = Field(default_factory=dict)
    download: str | None = None  # kept for compatibility with other tools; never executed

    @field_validator("names", mode="before")
    @classmethod
    def _accept_a_list(cls, names: Any) -> Any:
        return dict(enumerate(names)) if isinstance(names, list) else names

    @model_validator(mode="after")
    def _check(self) -> DatasetConfig:
        if not self.names or sorted(self.names) != list(range(len(self.names))):
            raise ValueError(
                f"names: expected one name per class from 0 up, got {shown(self.names)}"
            )
        if self.nc is not None and self.nc != len(self.names):
            raise ValueError(f"nc: {self.nc}, but names lists {len(self.names)} classes")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in the order of their ids."""
        return tuple(self.names[index] for index in range(len(self.names)))


class WeightsConfig(_Strict):
    """How convolution weights are prepared before quantization.

    ``split: cfws`` writes a re-parameterized convolution as fine 3x3 + coarse 1x1 (paper, section
    3.1);
    ``split: residual`` keeps the whole kernel on the coarse grid and the residual as the fine
    kernel. ``layers: measured`` splits only where that pays, within the recipe's
    ``latency_budget``. ``rounding: feedback`` lets the weights of a layer make up for each other's
    rounding errors (:mod:`detq.quant.rounding`). With fewer ``bits`` the integers are smaller; the
    runtime still stores and multiplies 8.
    """

    split: Literal["none", "cfws", "residual"] = "none"
    parts: tuple[Literal["backbone", "neck", "head"], ...] = ("backbone", "neck")
    layers: Literal["all", "measured"] = "all"
    granularity: Literal["channel", "tensor"] = "channel"
    bits: Annotated[int, Field(ge=2, le=8)] = 8
    rounding: Literal["nearest", "feedback"] = "nearest"


class RangesConfig(_Strict):
    """Which rule finds activation ranges in which part of the network.

    ``placement`` keeps the ranges of the library that placed the quantizers; ``search`` finds them
    by what they do to the network's output (:mod:`detq.quant.search`), in every part or in none.
    """

    backbone: RangeMethod = "kl_cfws"
    neck: RangeMethod = "kl_cfws"
    head: RangeMethod = "kl_cfws"
    bins: Annotated[int, Field(ge=256, le=65536)] = 2048
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.999
    kl_keep: Annotated[float, Field(gt=0.5, le=1)] = 0.9999

    @property
    def any_placement(self) -> bool:
        """True if some part keeps the ranges that placement gave it."""
        return "placement" in (self.backbone, self.neck, self.head)

    @property
    def only_placement(self) -> bool:
        """True if no range is chosen by a rule of detq's own."""
        return {self.backbone, self.neck, self.head} == {"placement"}

    @property
    def is_searched(self) -> bool:
        """True if the ranges are found by what they do to the network's output."""
        return self.backbone == "search"

    def all_by(self, method: RangeMethod) -> RangesConfig:
        """The same with one rule for every part."""
        return self.model_copy(update={"backbone": method, "neck": method, "head": method})

    @model_validator(mode="after")
    def _check(self) -> RangesConfig:
        parts = {self.backbone, self.neck, self.head}
        if "search" in parts and len(parts) > 1:
            raise ValueError("search: name it for backbone, neck and head, or for none of them")
        return self


class Recipe(_Strict):
    """A complete description of one way to quantize.

    ``latency_budget`` is what measured choices (split layers, tensors left in float) may cost, as a
    share of the predicted latency of the plain INT8 convolutions. ``quantize_elementwise: false``
    leaves tensors in float that no convolution reads. ``equalize_channels`` brings the channels of
    tensors to like ranges (:mod:`detq.quant.equalization`).
    """

    name: str
    description: str = ""
    weights: WeightsConfig = WeightsConfig()
    ranges: RangesConfig = RangesConfig()
    placement: Literal["performance", "mixed"] = "mixed"
    quantize_decode: bool = False
    quantize_elementwise: bool = True
    equalize_channels: bool = False
    latency_budget: Annotated[float, Field(ge=0, le=1)] = 0.05
    overflow_fix: Literal["pairs", "disable", "first_layer_only", "enable"] = "pairs"
    bias_correction: Literal["none", "mean_error", "nncf", "nncf_accurate"] = "mean_error"
    calibration_images: Annotated[int, Field(ge=1)] = 300
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.bias_correction.startswith("nncf") and not self.ranges.only_placement:
            raise ValueError("bias_correction: nncf needs ranges: placement in every part")
        own = self.weights.rounding != "nearest" or self.weights.bits != 8
        if own and self.overflow_fix != "pairs":
            raise ValueError("weights: rounding and bits need overflow_fix: pairs")
        return self


ConfigT = TypeVar("ConfigT", bound=_Strict)


def read_dataset(path: Path) -> DatasetConfig:
    """Dataset YAML -> validated value whose ``path`` is absolute (relative to the file's folder).

    Raises ConfigError for a missing file, broken YAML, an unknown key or a bad value.
    """
    config = _read(path, DatasetConfig)
    return config.model_copy(update={"path": (path.parent / config.path).resolve()})


def read_recipe(path: Path) -> Recipe:
    """Recipe YAML -> validated value. Raises ConfigError as :func:`read_dataset` does."""
    return _read(path, Recipe)


def _read(path: Path, kind: type[ConfigT]) -> ConfigT:
    document = read_yaml(path, text_under=("names",) if kind is DatasetConfig else ())
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error, kind)}") from None


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first problem of a pydantic error as one line."""
    problem = error.errors()[0]
    where = ".".join(str(step) for step in problem["loc"]) or "file"
    if problem["type"] == "extra_forbidden":
        model: type[BaseModel] = kind
        for step in problem["loc"][:-1]:
            inner = model.model_fields[str(step)].annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                model = inner
        return f"unknown key {where!r}; known keys: {', '.join(model.model_fields)}"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
