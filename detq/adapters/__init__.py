"""Model files on disk -> float torch modules with a description."""

from detq.adapters.load import FloatModel, fuse_model, load_checkpoint

__all__ = ["FloatModel", "fuse_model", "load_checkpoint"]
