"""Labelled images for classifiers: one folder per class, as ImageNet is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detq.config import DatasetConfig
from detq.data.dataset import SPLIT_NAMES, load_split
from detq.data.images import list_images
from detq.errors import DataError


@dataclass(frozen=True)
class LabelledSplit:
    """The images of one split; ``labels`` are indices into ``class_names``, one per image."""

    name: str
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.paths or len(self.paths) != len(self.labels):
            raise DataError(
                f"split {self.name}: {len(self.paths)} images, {len(self.labels)} labels"
            )


def read_class_folders(folder: Path) -> DatasetConfig:
    """A folder in place of a YAML: of splits (``train/``, ``val/``, ``test/``), or of classes.

    The classes are named by their folders, sorted. A folder of classes serves as every split.
    Raises DataError if there is no such folder.
    """
    splits = {name: name for name in SPLIT_NAMES if (folder / name).is_dir()}
    splits = splits or dict.fromkeys(SPLIT_NAMES, ".")
    names = sorted({path.name for split in splits.values() for path in _folders(folder / split)})
    if not names:
        raise DataError(f"{folder}: no folders of images, one per class; pass those or a YAML")
    return DatasetConfig.model_validate(
        {"path": folder.resolve(), "names": dict(enumerate(names)), **splits}
    )


def load_labelled_split(config: DatasetConfig, name: str) -> LabelledSplit:
    """The images of a split with the class that their folder names.

    Folders are matched with the data set's class names; if they are called something else, such as
    ImageNet's ``n01440764``, sorted folders count in the order of the names. Raises ConfigError for
    an unknown split, DataError if the images do not lie in class folders or these do not match.
    """
    paths = load_split(config, name, with_annotations=False).paths
    root = config.path / str(getattr(config, name))
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder with one folder per class")
    folders = [_class_folder(root, path) for path in paths]
    index_of = _indices(root, config.class_names)
    return LabelledSplit(
        name, paths, tuple(index_of[folder] for folder in folders), config.class_names
    )


def has_class_folders(config: DatasetConfig, name: str) -> bool:
    """True if the split's images lie in folders, so that their classes are known."""
    root = config.path / str(getattr(config, name))
    if not root.is_dir():
        return False
    return all(path.parent != root for path in list_images(root)[:1])


def _folders(root: Path) -> Sequence[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _class_folder(root: Path, path: Path) -> str:
    steps = path.relative_to(root).parts
    if len(steps) < 2:
        raise DataError(f"{path}: lies in no class folder; expected {root}/<class>/<image>")
    return steps[0]


def _indices(root: Path, class_names: Sequence[str]) -> dict[str, int]:
    """Folder name -> index of its class."""
    folders = [path.name for path in _folders(root)]
    if set(folders) <= set(class_names):
        return {folder: class_names.index(folder) for folder in folders}
    if len(folders) != len(class_names):
        unknown = next(folder for folder in folders if folder not in class_names)
        raise DataError(
            f"{root}: folder {unknown!r} is none of the {len(class_names)} class names, and "
            f"{len(folders)} folders cannot be matched with them by order"
        )
    return {folder: index for index, folder in enumerate(folders)}
