"""Data set YAML files as YOLOv6, Ultralytics and Roboflow write them, read into a validated value.

Which keys mean something here, which do not, and where a path is looked for: docs/data.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from detq.errors import ConfigError, shown
from detq.records import placeholder_names
from detq.yaml_file import read_yaml

SPLIT_NAMES = ("train", "val", "test")
MOST_CLASSES = 100_000
_ALIASES = {"valid": "val", "validation": "val"}
_KEYS = ("path", *SPLIT_NAMES, "names", "nc", "annotations", "kpt_shape", "anno_path")
_WITHOUT_MEANING = {
    *("is_coco", "flip_idx", "channels", "minival", "download", "roboflow", "kpt_names"),
    *("skeleton", "task", "text", "date", "tags"),
}
"""Keys of other programs, exempt from looking like a misspelt one."""
_ALIKE = 0.75
"""``tets`` and ``test``; ``minival`` and ``val`` have 0.6."""


class DatasetConfig(BaseModel):
    """Where the images of a data set lie, what its classes are called, where its truth stands.

    Each split is a folder of images, a text file that lists images, an image, or several of these.
    Ground truth is, per split, what ``annotations`` names (a COCO JSON, or a folder of Pascal VOC
    files), or else the YOLO label files beside the images (``images/x.jpg`` -> ``labels/x.txt``).

    ``names`` is empty where nothing names the classes: then label files say nothing. ``kpt_shape``
    is the number of keypoints in a row of a label file, and of numbers for each.
    ``names_are_folders`` if the names are those of a classifier's folders, no words for objects;
    ``notes`` are for the person who named the data set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Path()
    train: str | tuple[str, ...] | None = None
    val: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...] | None = None
    names: dict[int, str] = Field(default_factory=dict)
    nc: int | None = None
    annotations: dict[str, str] = Field(default_factory=dict)
    kpt_shape: tuple[int, int] | None = None
    names_are_folders: bool = False
    notes: tuple[str, ...] = ()

    @field_validator("names", mode="before")
    @classmethod
    def _accept_a_list(cls, names: Any) -> Any:
        return dict(enumerate(names)) if isinstance(names, list | tuple) else names

    @field_validator("names")
    @classmethod
    def _fill_gaps(cls, names: dict[int, str]) -> dict[int, str]:
        """A class keeps its number: one that has no name gets a placeholder's."""
        if any(not 0 <= number < MOST_CLASSES for number in names):
            raise ValueError(
                f"expected numbers of classes from 0 up to {MOST_CLASSES}, got {shown(list(names))}"
            )
        placeholders = placeholder_names(max(names, default=-1) + 1)
        return {number: names.get(number, name) for number, name in enumerate(placeholders)}

    @field_validator("annotations")
    @classmethod
    def _check_splits(cls, annotations: dict[str, str]) -> dict[str, str]:
        named = {_ALIASES.get(split, split): place for split, place in annotations.items()}
        if unknown := sorted(set(named) - set(SPLIT_NAMES)):
            raise ValueError(f"{shown(unknown[0])} is no split; known: {', '.join(SPLIT_NAMES)}")
        return named

    @field_validator("kpt_shape")
    @classmethod
    def _check_keypoints(cls, shape: tuple[int, int] | None) -> tuple[int, int] | None:
        if shape is not None and (shape[0] < 1 or shape[1] not in (2, 3)):
            raise ValueError(f"expected [keypoints, 2 or 3], got {list(shape)}")
        return shape

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in the order of their ids."""
        return tuple(self.names[index] for index in range(len(self.names)))

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that the data set has."""
        return tuple(name for name in SPLIT_NAMES if getattr(self, name))

    def sources(self, split: str) -> tuple[Path, ...]:
        """Where the images of a split lie. Raises ConfigError for one that is not there."""
        if split not in self.split_names:
            known = ", ".join(self.split_names) or "none"
            raise ConfigError(
                f"{self.path}: the data set has no split {split!r}; it names: {known}"
            )
        written = getattr(self, split)
        entries = (written,) if isinstance(written, str) else written
        return tuple(self.locate(entry) for entry in entries)

    def locate(self, written: str) -> Path:
        """A path of the description -> the first place of those it may mean that exists."""
        places = _places(self.path, written)
        return next((place for place in places if place.exists()), self.path / written)


class _File(DatasetConfig):
    """What a YAML file must fulfil beside."""

    @model_validator(mode="after")
    def _check(self) -> _File:
        if not self.names:
            raise ValueError("names: expected one name per class from 0 up, got none")
        if self.nc is not None and self.nc != len(self.names):
            raise ValueError(f"nc: {self.nc}, but names lists {len(self.names)} classes")
        return self


def read_dataset(path: Path) -> DatasetConfig:
    """Dataset YAML -> validated value whose ``path`` is absolute (relative to the file's folder).

    Keys of other programs are left out, and its ``notes`` name them. Raises ConfigError for a
    missing file, broken YAML, a bad value, and a key that looks like a misspelt one.
    """
    document = read_yaml(path, text_under=("names",))
    known, ignored = _known_keys(path, document)
    notes = [f"{path}: without a meaning here: {', '.join(ignored)}"] if ignored else []
    try:
        config = _File.model_validate(known)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from None
    root = _root(path.parent, config)
    if root != (path.parent / config.path).resolve():
        notes.append(f"{path}: there is no folder {config.path}; taken is {root}")
    values = {**dict(config), "path": root}
    found = DatasetConfig.model_construct(**values)
    notes += [note for name in found.split_names for note in _place_notes(found, name)]
    return found.model_copy(update={"notes": tuple(notes)})


def _known_keys(path: Path, document: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """The keys with a meaning here under detq's names, and the names of the others.

    Raises ConfigError for a key that looks like a misspelt one.
    """
    known: dict[str, Any] = {}
    ignored = []
    for key, value in document.items():
        meant = _ALIASES.get(str(key), str(key))
        if meant in _KEYS and meant in known:
            raise ConfigError(f"{path}: {shown(key)} says what {meant!r} says; keep one of them")
        if meant in _KEYS:
            known[meant] = value
            continue
        alike = get_close_matches(str(key).lower(), _KEYS, n=1, cutoff=_ALIKE)
        if alike and key not in _WITHOUT_MEANING:
            raise ConfigError(
                f"{path}: unknown key {shown(key)}; known keys: {', '.join(_KEYS)}; "
                f"did you mean {alike[0]!r}?"
            )
        ignored.append(shown(key).strip("'"))
    return _in_detqs_words(path, known), ignored


def _in_detqs_words(path: Path, known: dict[str, Any]) -> dict[str, Any]:
    """YOLOv6's ``anno_path`` is a COCO JSON of ``val``; ``nc`` alone gives placeholder names."""
    json_file = known.pop("anno_path", None)
    annotations = known.get("annotations") or {}
    if json_file is not None and isinstance(annotations, dict):
        known["annotations"] = {"val": json_file, **annotations}
    names, count = known.get("names"), known.get("nc")
    if isinstance(count, int) and not 0 < count < MOST_CLASSES:
        raise ConfigError(f"{path}: nc: expected 1 to {MOST_CLASSES} classes, got {shown(count)}")
    if names is None and count is None:
        raise ConfigError(f"{path}: names: Field required")
    if isinstance(count, int) and names is None:
        known["names"] = list(placeholder_names(count))
    elif isinstance(count, int) and isinstance(names, dict):
        known.update(_counted(names, count))
    return {key: value for key, value in known.items() if value not in (None, [])}


def _counted(names: dict[Any, Any], count: int) -> dict[str, Any]:
    """Numbered names with gaps: ``nc`` counts the names, or the classes up to the last."""
    if not all(isinstance(number, int) for number in names):
        return {}
    if max(names, default=-1) < count:
        return {"names": {**dict(enumerate(placeholder_names(count))), **names}}
    return {"nc": None} if count == len(names) else {}


def _root(folder: Path, config: DatasetConfig) -> Path:
    """The folder that a YAML's ``path`` means.

    Ultralytics looks for it in the working folder and in a folder of data sets. A data set that was
    copied with its YAML still names where it lay; then the YAML's folder is meant, if it holds one.
    """
    written = config.path.expanduser()
    stated = (folder / written).resolve()
    if written.is_absolute() or written == Path():
        places = [stated]
    else:
        here = Path.cwd()
        places = [stated, here / written, here / "datasets" / written]
        places.append(here.parent / "datasets" / written)
    for place in places:
        if place.is_dir():
            return place.resolve()
    moved = DatasetConfig.model_construct(**{**dict(config), "path": folder.resolve()})
    entries = [place for name in moved.split_names for place in moved.sources(name)]
    return moved.path if any(place.exists() for place in entries) else stated


def _places(root: Path, written: str) -> Iterator[Path]:
    """Where a path of a description may lie, the likeliest first."""
    for text in dict.fromkeys((written, written.replace("\\", "/"))):
        steps = PurePosixPath(text).parts
        yield root / text
        yield _inside(root, text)
        # my-data-1/train/images, or /content/my-data-1/train/images, from inside my-data-1.
        for index in reversed([index for index, step in enumerate(steps) if step == root.name]):
            yield root.joinpath(*steps[index + 1 :])
        yield Path.cwd() / text  # YOLOv6 knows no other


def _inside(root: Path, written: str) -> Path:
    """Roboflow writes ``../train/images`` for a folder that lies beside the YAML."""
    steps = PurePosixPath(written).parts
    while steps[:1] == ("..",):
        steps = steps[1:]
    return root.joinpath(*steps)


def _place_notes(config: DatasetConfig, split: str) -> Iterator[str]:
    """What a person may want to know about where a split's images were found."""
    written = getattr(config, split)
    for entry in (written,) if isinstance(written, str) else written:
        stated, found = config.path / entry, config.locate(entry)
        inside = _inside(config.path, entry.replace("\\", "/"))
        if found not in (stated, inside) and found.exists():
            yield f"split {split}: {entry} does not exist below {config.path}; taken is {found}"
        elif found == stated != inside and inside.exists():
            yield f"split {split}: {entry} is {stated.resolve()}, and not {inside}"


def _explain(error: ValidationError) -> str:
    """The first problem of a pydantic error as one line."""
    problem = error.errors()[0]
    where = ".".join(str(step) for step in problem["loc"])
    reason = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {reason}" if where else reason
