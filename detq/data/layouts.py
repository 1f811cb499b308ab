"""Data sets without a YAML of detq's kind: folders and COCO files as other programs leave them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detq.config import SPLIT_NAMES, DatasetConfig, read_dataset
from detq.data.class_folders import read_class_folders, split_folders
from detq.data.coco import read_coco_header
from detq.data.file_names import spellings
from detq.data.images import is_image
from detq.data.voc import is_annotation, voc_class_names
from detq.errors import ConfigError, DataError
from detq.files import read_text
from detq.yaml_file import read_yaml

_ROBOFLOW_JSON = "_annotations.coco.json"
_SPELLED = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_KEYS = {"names", "nc", *(word for words in _SPELLED.values() for word in words)}
_VOC_LISTS = {"train": ("train", "trainval"), "val": ("val",), "test": ("test",)}
_LOOKED_AT = 20
"""XML files of a folder that are opened to tell what they are."""
_NAME_FILES = ("classes.txt", "labels/classes.txt", "obj.names", "_darknet.labels", "labelmap.txt")


def read_data(path: Path) -> DatasetConfig:
    """What ``--data`` names -> its description; docs/data.md lists what it may be.

    Raises ConfigError or DataError for anything else.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() == ".json":
        return _read_json(path)
    if path.suffix.lower() == ".txt":
        splits = dict.fromkeys(SPLIT_NAMES, str(path.resolve()))
        return _described(path.parent, splits, names=_read_names(path.parent))
    if is_image(path) and path.exists():
        return _described(path.parent, dict.fromkeys(SPLIT_NAMES, path.name))
    return read_dataset(path)


def _read_folder(folder: Path) -> DatasetConfig:
    """A folder by what it holds: a YAML, VOC or COCO annotations, names of classes, or images."""
    yaml_file = _only_yaml(folder)
    if yaml_file is not None:
        return read_dataset(yaml_file)
    inside = [path for path in folder.iterdir() if path.is_dir()]
    if inside and all(path.name.startswith("VOC") for path in inside):
        if len(inside) == 1:
            return _read_folder(inside[0])
        listed = ", ".join(sorted(path.name for path in inside))
        raise ConfigError(f"{folder}: holds several data sets ({listed}); pass one of them")
    splits = split_folders(folder)
    for reader in (_read_voc, _read_coco_folder):
        config = reader(folder, splits)
        if config is not None:
            return config
    names = _read_names(folder)
    images = folder / "images" if (folder / "images").is_dir() else folder
    parts = {
        split: str((images / name).relative_to(folder))
        for split, name in (split_folders(images) or splits).items()
        if (images / name).is_dir()
    }
    if names or images != folder:
        everything = dict.fromkeys(SPLIT_NAMES, str(images.relative_to(folder)))
        return _described(folder, parts or everything, names=names)
    roots = [folder / name for name in splits.values()] or [folder]
    if any(map(_has_images, roots)):
        return _described(folder, splits or dict.fromkeys(SPLIT_NAMES, "."))
    return read_class_folders(folder)


def _described(folder: Path, splits: dict[str, Any], **more: Any) -> DatasetConfig:
    return DatasetConfig.model_validate({"path": folder.resolve(), **splits, **more})


def _only_yaml(folder: Path) -> Path | None:
    """The data set's YAML in its folder, as Roboflow packs it.

    Raises ConfigError if there are several, none of which is called ``data``.
    """
    found = sorted(path for path in folder.iterdir() if _describes_data(path))
    named = [path for path in found if path.stem.lower() in ("data", "dataset")]
    if len(named) == 1 or len(found) == 1:
        return (named or found)[0]
    if found:
        raise ConfigError(
            f"{folder}: holds {len(found)} YAML files ({found[0].name}, {found[1].name}); "
            "pass the one that describes the data set"
        )
    return None


def _describes_data(path: Path) -> bool:
    """True for a YAML that is called like a data set's, or has one of its keys."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return False
    if path.stem.lower() in ("data", "dataset"):
        return True
    try:
        document = read_yaml(path)
    except ConfigError:
        return False
    return not _KEYS.isdisjoint(map(str, document))


# Pascal VOC


def _read_voc(folder: Path, splits: dict[str, str]) -> DatasetConfig | None:
    """``Annotations/*.xml`` and ``JPEGImages``, or XML files beside the images of each split."""
    beside = {split: name for split, name in splits.items() if _xml_files(folder / name)}
    if beside:
        files = [file for name in beside.values() for file in _xml_files(folder / name)]
        return _voc_described(folder, dict(beside), beside, files)
    places = (folder / name for name in ("Annotations", "annotations", "."))
    annotations = next((place for place in places if _xml_files(place)), None)
    if annotations is None:
        return None
    shelves = (folder / name for name in ("JPEGImages", "images", "Images", "."))
    images = next(shelf for shelf in shelves if shelf.is_dir())
    everything = dict.fromkeys(SPLIT_NAMES, str(images.relative_to(folder)))
    named = _voc_splits(folder, images) or everything
    place = str(annotations.relative_to(folder))
    return _voc_described(folder, named, dict.fromkeys(named, place), _xml_files(annotations))


def _voc_described(
    folder: Path, splits: dict[str, Any], annotations: dict[str, str], files: Sequence[Path]
) -> DatasetConfig:
    names, notes = _read_names(folder), list[str]()
    if not names:
        names = voc_class_names(files)
        notes.append(f"{folder}: classes of the XML files, by the alphabet: {', '.join(names)}")
    return _described(folder, splits, annotations=annotations, names=names, notes=notes)


def _voc_splits(folder: Path, images: Path) -> dict[str, tuple[str, ...]]:
    """``ImageSets/Main/val.txt`` lists the images of ``val``, without their endings."""
    files = {path.stem: path for path in images.iterdir() if is_image(path)}
    found = {}
    for split, names in _VOC_LISTS.items():
        lists = (folder / "ImageSets" / "Main" / f"{name}.txt" for name in names)
        listing = next((path for path in lists if path.exists()), None)
        if listing is None:
            continue
        written = [line.strip() for line in _lines(listing) if line.strip()]
        stems = [line if line in files else line.split()[0] for line in written]
        missing = [stem for stem in stems if stem not in files]
        if missing:
            raise DataError(f"{listing}: there is no image {missing[0]} in {images}")
        found[split] = tuple(str(files[stem].relative_to(folder)) for stem in stems)
    return {split: entries for split, entries in found.items() if entries}


def _xml_files(folder: Path) -> list[Path]:
    """The annotations in a folder, none if its XML files are something else."""
    found = sorted(folder.glob("*.xml")) if folder.is_dir() else []
    return found if any(map(is_annotation, found[:_LOOKED_AT])) else []


# COCO


def _read_coco_folder(folder: Path, splits: dict[str, str]) -> DatasetConfig | None:
    """A JSON beside the images of each split, in ``annotations/``, or alone in the folder."""
    found = {
        split: folder / name / _ROBOFLOW_JSON
        for split, name in splits.items()
        if (folder / name / _ROBOFLOW_JSON).exists()
    }
    if not found:
        listed = sorted((folder / "annotations").glob("*.json"))
        found = {split: path for split in SPLIT_NAMES if (path := _json_of(split, listed))}
    alone = sorted(folder.glob("*.json"))
    if not found and not alone:
        alone = sorted((folder / "annotations").glob("*.json"))  # CVAT: instances_default.json
    if not found and len(alone) == 1 and _is_coco(alone[0]):
        return _read_json(alone[0])
    if not found:
        return None
    configs = {split: _read_json(path) for split, path in found.items()}
    names = max((config.class_names for config in configs.values()), key=len)
    if not all(set(config.class_names) <= set(names) for config in configs.values()):
        raise DataError(
            f"{folder}: {', '.join(path.name for path in found.values())} name different classes; "
            "describe the data set by a YAML with `names` and `annotations`"
        )
    return _described(
        folder,
        {split: config.val for split, config in configs.items()},
        annotations={split: str(path.resolve()) for split, path in found.items()},
        names=names,
    )


def _json_of(split: str, listed: Sequence[Path]) -> Path | None:
    """``instances_val2017.json`` of COCO, ``val.json`` of many."""
    alike = [path for path in listed if any(word in _words(path) for word in _SPELLED[split])]
    instances = [path for path in alike if path.stem.startswith("instances")] or alike
    return instances[0] if len(instances) == 1 else None


def _words(path: Path) -> set[str]:
    """``instances_val2017`` -> instances, val."""
    spaced = "".join(letter if letter.isalpha() else " " for letter in path.stem.lower())
    return set(spaced.split())


def _is_coco(path: Path) -> bool:
    try:
        read_coco_header(path)
    except DataError:
        return False
    return True


def _read_json(path: Path) -> DatasetConfig:
    """A COCO JSON by itself is every split; its images are looked for around it."""
    names, file_names = read_coco_header(path)
    images = _folder_of(path, file_names)
    return _described(
        path.parent,
        dict.fromkeys(SPLIT_NAMES, str(images.resolve())),
        annotations=dict.fromkeys(SPLIT_NAMES, str(path.resolve())),
        names=names,
    )


def _folder_of(json_file: Path, file_names: Sequence[str]) -> Path:
    """The first folder of those around a JSON that holds all images, or else most of them."""
    most, fullest = 0, None
    for folder in dict.fromkeys(_folders_around(json_file)):
        held = sum(_holds(folder, name) for name in file_names) if folder.is_dir() else 0
        if held == len(file_names):
            return folder
        if held > most:
            most, fullest = held, folder
    if fullest is not None:
        return fullest
    beside = json_file.parent
    base = beside.parent if beside.name.lower().startswith("annot") else beside
    return base / "images" if (base / "images").is_dir() else base


def _folders_around(json_file: Path) -> Iterator[Path]:
    """Beside the JSON, or beside its folder; in a folder called like the split."""
    stem = json_file.stem
    tails = [stem, *(stem[index + 1 :] for index, letter in enumerate(stem) if letter in "_-.")]
    for names in _SPELLED.values():
        tails += names if set(names) & _words(json_file) else ()
    for base in (json_file.parent, json_file.parent.parent):
        for tail in dict.fromkeys(tails):
            yield from (base / "images" / tail, base / tail / "images", base / tail)
        yield from (base / "images", base / "JPEGImages", base)


def _holds(folder: Path, written: str) -> bool:
    return any(
        (folder / spelling).exists() or (folder / spelling.name).exists()
        for spelling in spellings(written)
    )


# Names and images


def _read_names(folder: Path) -> tuple[str, ...]:
    """One class name per line, as LabelImg, Label Studio, CVAT and darknet leave it; or none."""
    file = next((folder / name for name in _NAME_FILES if (folder / name).exists()), None)
    if file is None:
        return ()
    lines = [line.strip() for line in _lines(file)]
    lines = [line for line in lines if line and not line.startswith("#")]
    if file.name == "labelmap.txt":  # `name:colour:parts:actions`, the background first
        lines = [name for line in lines if (name := line.split(":")[0]) != "background"]
    return tuple(lines)


def _lines(file: Path) -> list[str]:
    try:
        return read_text(file).splitlines()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check the path") from None


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(
            entry.name == "images" if entry.is_dir() else is_image(Path(entry.name))
            for entry in entries
        )
