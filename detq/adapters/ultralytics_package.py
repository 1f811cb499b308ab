"""The user's own installation of Ultralytics: it has the modules that its model files name.

Ultralytics is AGPL-3.0 and no part of detq. It is imported here alone, when a model of its kind is
read, without settings files, network connections or torchvision.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, cast

import PIL.Image
import torch
from torch import nn

from detq.adapters.ultralytics_config import ModelConfig
from detq.errors import CheckpointError
from detq.opencv import cv2

INSTALL = "pip install --no-deps ultralytics"
_BATCH_NORM_EPS = 1e-3  # of every BatchNorm in its models
_NAME = re.compile(r"(yolov?\d+)([nslmx])(.*)")
"""``yolov8n-p6``: family, letter of the size, variant."""
_QUIET = {"YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false", "YOLO_AUTOINSTALL": "false"}
_REPLACED = ((PIL.Image, "open"), (torch, "save"))


def build_empty(config: ModelConfig) -> nn.Sequential:
    """The layers of a network without weights (on torch's meta device), evaluation mode.

    Raises CheckpointError if Ultralytics is missing, or cannot build it.
    """
    tasks = import_tasks()
    try:
        with torch.device("meta"):
            layers, _ = tasks.parse_model(config.document(), ch=3, verbose=False)
    except Exception as error:  # a description may be nonsense in more ways than can be told
        raise CheckpointError(f"Ultralytics cannot build its network ({_reason(error)})") from None
    for module in layers.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = _BATCH_NORM_EPS
    return cast(nn.Sequential, layers.eval())


def build_random(config: ModelConfig) -> nn.Sequential:
    """The layers of a new network as training would begin with; the same weights each time.

    Raises CheckpointError as :func:`build_empty` does.
    """
    tasks = import_tasks()
    kind = tasks.RTDETRDetectionModel if config.is_rtdetr else tasks.DetectionModel
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = kind(config.document(), verbose=False)
    except Exception as error:
        raise CheckpointError(f"Ultralytics cannot build its network ({_reason(error)})") from None
    return cast(nn.Sequential, network.model.eval())


def find_description(name: str) -> tuple[Path, str]:
    """``yolov8n`` -> the YAML file that Ultralytics brings along for it, and the size's letter.

    Raises CheckpointError if there is none.
    """
    folder = Path(str(import_tasks().__file__)).parents[1] / "cfg/models"
    files = {path.stem: path for path in sorted(folder.rglob("*.yaml"))}
    general, letter = split_name(name)
    for stem in (name, general):
        if stem in files:
            return files[stem], letter
    raise CheckpointError(f"{name}.yaml: no such file, nor a model that Ultralytics describes")


def split_name(name: str) -> tuple[str, str]:
    """``yolov8n-p6`` -> (``yolov8-p6``, ``n``); a name without a size is itself, and no letter."""
    match = _NAME.fullmatch(name)
    return (match[1] + match[3], match[2]) if match else (name, "")


@cache
def import_tasks() -> Any:
    """The module of Ultralytics that builds networks. Raises CheckpointError if it is missing."""
    try:
        with _undisturbed():
            from ultralytics.nn import tasks  # noqa: PLC0415 - a peer, and seconds
    except ImportError as error:
        raise CheckpointError(
            f"a model of Ultralytics, whose package has its modules ({error}); install it with "
            f"`{INSTALL}`"
        ) from None
    return tasks


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Importing Ultralytics writes its settings file, asks whether it is online, and wants to know
    the version of torchvision, which detq neither needs nor imports. It also leaves its own
    ``Image.open`` (which installs packages for a file that is no picture) and ``torch.save``
    behind, and takes threads from the process and its children.
    """
    before, threads = dict(os.environ), cv2.getNumThreads()
    replaced = [(module, name, getattr(module, name)) for module, name in _REPLACED]
    finder = _AbsentTorchvision()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update({"YOLO_CONFIG_DIR": folder, **_QUIET})
        sys.meta_path.append(finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            for key in set(os.environ) - set(before):
                del os.environ[key]
            os.environ.update(before)
            cv2.setNumThreads(threads)
            for module, name, function in replaced:
                setattr(module, name, function)


class _AbsentTorchvision(metadata.DistributionFinder):
    """Tells a version of torchvision where it is not installed; there is nothing to import."""

    def find_spec(self, *_: object) -> ModuleSpec | None:
        return None

    def find_distributions(
        self, context: metadata.DistributionFinder.Context | None = None
    ) -> Iterator[metadata.Distribution]:
        if context is not None and context.name == "torchvision":
            yield _NoDistribution()


class _NoDistribution(metadata.Distribution):
    def read_text(self, filename: str) -> str | None:
        return "Name: torchvision\nVersion: 0.0.0\n" if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        return Path(path)


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
