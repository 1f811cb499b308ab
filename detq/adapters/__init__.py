"""Model files on disk -> float torch modules with a description."""

from detq.adapters.load import FloatModel, convert, fuse_model, load_checkpoint, read_model
from detq.adapters.own_detector import adapt_module
from detq.adapters.safetensors_file import write_safetensors
from detq.adapters.stored_model import StoredModel

__all__ = [
    "FloatModel",
    "StoredModel",
    "adapt_module",
    "convert",
    "fuse_model",
    "load_checkpoint",
    "read_model",
    "write_safetensors",
]
