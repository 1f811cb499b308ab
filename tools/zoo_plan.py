"""What a zoo's configuration says: models, their data, recipes, seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from detq import api
from detq.config import Recipe
from detq.errors import ConfigError
from detq.quant.recipes import NEEDED, passes_of
from detq.yaml_file import read_yaml

WITHOUT, EVERYTHING = "without ", "everything"


class Entry(BaseModel):
    """A model and its data; paths are below the root, or where the tool is run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    data: str
    name: str = ""
    imgsz: int | tuple[int, int] | None = None
    layout: str | None = None
    calibrate: str = "train"
    split: str = "val"
    images: int | None = Field(default=None, ge=1)

    @property
    def label(self) -> str:
        """What its rows are called."""
        return self.name or Path(self.model).stem


class Plan(BaseModel):
    """``images`` to calibrate on, and at most ``held_back`` others of that split to judge by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[Entry, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    images: int = Field(default=100, ge=1)
    held_back: int = Field(default=100, ge=1)
    recipes: tuple[str, ...] = ("nncf", "minmax", "cfws_kl", "measured")
    variants: tuple[str, ...] = ()
    variant_seeds: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> Plan:
        labels = [entry.label for entry in self.models]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two models are called {twice[0]}; give one a name")
        return self

    def recipes_of(self, seed: int, *, splits: bool) -> list[str]:
        """What a model goes through; without re-parameterized layers there is nothing to split."""
        some = [each for each in self.recipes if splits or not each.startswith("cfws")]
        seeds = self.seeds[:1] if self.variant_seeds is None else self.variant_seeds
        if seed not in seeds:
            return some
        return some + [each for each in _written_out(self.variants) if splits or _plain(each)]

    def only(self, labels: Sequence[str] | None) -> Plan:
        """Of these models; of all for None. Raises ConfigError for one that is not there."""
        known = [entry.label for entry in self.models]
        for label in labels or ():
            if label not in known:
                raise ConfigError(f"no model is called {label}; there are {', '.join(known)}")
        some = [entry for entry in self.models if not labels or entry.label in labels]
        return self.model_copy(update={"models": tuple(some)})

    def swapped(self) -> Plan:
        """Every model calibrated on what it is judged by here, and the other way round.

        Raises ConfigError where that is the same split.
        """
        for one in self.models:
            if one.calibrate == one.split:
                raise ConfigError(
                    f"{one.label}: calibrated on {one.split} and judged by it, so there is no "
                    "other half; name two splits with `calibrate` and `split`"
                )
        models = (
            one.model_copy(update={"calibrate": one.split, "split": one.calibrate})
            for one in self.models
        )
        return self.model_copy(update={"models": tuple(models)})

    def images_of(self, entry: Entry) -> int:
        """How many images a model is calibrated on."""
        return entry.images or self.images

    def fingerprint(self, entry: Entry) -> str:
        """Of all that a model's rows rest on but recipe and seed: others belong to another plan."""
        words = {**entry.model_dump(), "images": self.images_of(entry), "held_back": self.held_back}
        return hashlib.blake2b(json.dumps(words).encode(), digest_size=6).hexdigest()


def read_plan(path: Path) -> Plan:
    """Raises ConfigError for a missing file, broken YAML, an unknown key, recipe or bad value."""
    try:
        plan = Plan.model_validate(read_yaml(path))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(step) for step in problem["loc"]) or "file"
        if problem["type"] == "extra_forbidden":
            known = Entry if "models" in problem["loc"] else Plan
            keys = ", ".join(known.model_fields)
            raise ConfigError(f"{path}: unknown key {where!r}; known keys: {keys}") from None
        message = problem["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{path}: {where}: {message}; correct it") from None
    for name in (*plan.recipes, *_written_out(plan.variants)):  # before hours of measuring
        try:
            recipe_of(name, seed=0, images=plan.images)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    return plan


def located(written: str, root: Path) -> str:
    """The path below the root if something is there, else as it is written: a name, or a path from
    where the tool is run.
    """
    below = root / written
    return str(below) if below.exists() else written


def recipe_of(name: str, *, seed: int, images: int) -> Recipe:
    """A recipe by name, or a variant of one. Raises ConfigError."""
    base, _, variant = name.partition("/")
    keys: dict[str, Any] = api.load_recipe(base).model_dump()
    for change in filter(None, (one.strip() for one in variant.split(","))):
        if change.startswith(WITHOUT):
            keys["without"] = (*keys["without"], change.removeprefix(WITHOUT))
            continue
        path, _, value = change.partition("=")
        *above, last = path.split(".")
        section = keys
        for key in above:
            if not isinstance(section.get(key), dict):
                raise ConfigError(f"recipe {name}: {key}: no such section; see docs/recipes.md")
            section = section[key]
        section[last] = yaml.safe_load(value)
    changed = {**keys, "name": name, "seed": seed, "calibration_images": images}
    try:
        return Recipe.model_validate(changed)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(step) for step in problem["loc"])
        raise ConfigError(f"recipe {name}: {where}: {problem['msg']}") from None


def _written_out(variants: tuple[str, ...]) -> list[str]:
    """``everything`` stands for each pass that `measured` can do without."""
    names = dict.fromkeys(one.name for one in passes_of(api.load_recipe("measured")))
    every = [f"measured/{WITHOUT}{name}" for name in names if name not in NEEDED]
    return [one for each in variants for one in (every if each == EVERYTHING else [each])]


def _plain(variant: str) -> bool:
    return "split weights" not in variant and not variant.startswith("cfws")
