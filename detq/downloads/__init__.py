"""Models and data sets by name: fetched once, kept in a cache, used without a network after."""

from detq.downloads.cache import cache_folder, forget, is_cached, obtain_dataset, obtain_model
from detq.downloads.catalog import DATASETS, MODELS, Archive, Dataset, Model
from detq.downloads.resumable import download

__all__ = [
    "DATASETS",
    "MODELS",
    "Archive",
    "Dataset",
    "Model",
    "cache_folder",
    "download",
    "forget",
    "is_cached",
    "obtain_dataset",
    "obtain_model",
]
