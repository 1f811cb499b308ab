"""Labelled images for classifiers: one folder per class, as ImageNet is kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detq.config import SPLIT_NAMES, DatasetConfig
from detq.data.dataset import load_split
from detq.data.images import list_images
from detq.errors import DataError
from detq.records import NO_COUNTS, DataCounts


@dataclass(frozen=True)
class LabelledSplit:
    """The images of one split; ``labels`` are indices into ``class_names``, one per image.

    ``left_out`` counts what else was found.
    """

    name: str
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    left_out: DataCounts = NO_COUNTS

    def __post_init__(self) -> None:
        if not self.paths or len(self.paths) != len(self.labels):
            raise DataError(
                f"split {self.name}: {len(self.paths)} images, {len(self.labels)} labels"
            )

    def without(self, damaged: Collection[Path]) -> LabelledSplit:
        """The split less some images. Raises DataError if none is left."""
        gone = set(damaged)
        pairs = zip(self.paths, self.labels, strict=True)
        kept = [(path, label) for path, label in pairs if path not in gone]
        return replace(
            self,
            paths=tuple(path for path, _ in kept),
            labels=tuple(label for _, label in kept),
        )


def read_class_folders(folder: Path) -> DatasetConfig:
    """A folder in place of a YAML: of splits (``train/``, ``val/``, ``test/``), or of classes.

    The classes are named by their folders, sorted. A folder of classes serves as every split.
    Raises DataError if there is no such folder.
    """
    splits = split_folders(folder) or dict.fromkeys(SPLIT_NAMES, ".")
    names = sorted({path.name for split in splits.values() for path in _folders(folder / split)})
    if not names:
        raise DataError(
            f"{folder}: no images, and no folders of images, one per class; pass those or a YAML"
        )
    return DatasetConfig.model_validate(
        {
            "path": folder.resolve(),
            "names": dict(enumerate(names)),
            "names_are_folders": True,
            **splits,
        }
    )


def split_folders(folder: Path) -> dict[str, str]:
    """Split -> the folder inside that is called like it; Roboflow calls one ``valid``."""
    candidates = [(name, name) for name in SPLIT_NAMES] + [("val", "valid"), ("val", "validation")]
    found: dict[str, str] = {}
    for split, name in candidates:
        if (folder / name).is_dir():
            found.setdefault(split, name)
    return found


def load_labelled_split(config: DatasetConfig, name: str) -> LabelledSplit:
    """The images of a split with the class that their folder names.

    Folders are matched with the data set's class names; if they are called something else, such as
    ImageNet's ``n01440764``, sorted folders count in the order of the names. Raises ConfigError for
    an unknown split, DataError if the images do not lie in class folders or these do not match.
    """
    split = load_split(config, name, with_annotations=False)
    root = _root(config, name)
    if root is None:
        raise DataError(f"split {name}: expected one folder with one folder per class")
    folders = [_class_folder(root, path) for path in split.paths]
    index_of = _indices(root, config.class_names)
    labels = tuple(index_of[folder] for folder in folders)
    return LabelledSplit(name, split.paths, labels, config.class_names, split.left_out)


def has_class_folders(config: DatasetConfig, name: str) -> bool:
    """True if the split's images lie in folders, so that their classes are known."""
    root = _root(config, name)
    if root is None or not config.names:
        return False
    return all(path.parent != root for path in list_images(root)[:1])


def _root(config: DatasetConfig, name: str) -> Path | None:
    """The one folder that a split is, if it is one."""
    sources = config.sources(name)
    return sources[0] if len(sources) == 1 and sources[0].is_dir() else None


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
    ambiguous = [folder for folder in folders if class_names.count(folder) > 1]
    if set(folders) <= set(class_names) and not ambiguous:
        return {folder: class_names.index(folder) for folder in folders}
    if len(folders) != len(class_names):
        unknown = next(each for each in folders if class_names.count(each) != 1)
        raise DataError(
            f"{root}: folder {unknown!r} is none of the {len(class_names)} class names, or "
            f"several, and {len(folders)} folders cannot be matched with them by order"
        )
    return {folder: index for index, folder in enumerate(folders)}
