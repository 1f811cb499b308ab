"""YAML files of recipes and of data sets, read into validated values."""

from detq.config.dataset import SPLIT_NAMES, DatasetConfig, read_dataset
from detq.config.recipe import RangeMethod, RangesConfig, Recipe, WeightsConfig, read_recipe

__all__ = [
    "SPLIT_NAMES",
    "DatasetConfig",
    "RangeMethod",
    "RangesConfig",
    "Recipe",
    "WeightsConfig",
    "read_dataset",
    "read_recipe",
]
