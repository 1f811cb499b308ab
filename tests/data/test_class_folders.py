from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from detq.config import DatasetConfig, read_dataset
from detq.data.class_folders import has_class_folders, load_labelled_split, read_class_folders
from detq.errors import ConfigError, DataError


def _write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))


def _config(folder: Path, names: list[str]) -> DatasetConfig:
    (folder / "data.yaml").write_text(f"train: train\nval: val\nnames: {names}\n")
    return read_dataset(folder / "data.yaml")


def test_folders_are_matched_with_names_whatever_their_order(tmp_path: Path) -> None:
    _write(tmp_path, "val/cat/a.png", "val/cat/deep/b.png", "val/ant/a.png")
    split = load_labelled_split(_config(tmp_path, ["dog", "cat", "ant"]), "val")
    named = {(path.name, split.class_names[label]) for path, label in _pairs(split)}
    assert named == {("a.png", "cat"), ("b.png", "cat"), ("a.png", "ant")}
    assert [path.relative_to(tmp_path / "val").parts[0] for path in split.paths] == [
        split.class_names[label] for label in split.labels
    ]


def test_other_folder_names_count_in_their_order(tmp_path: Path) -> None:
    _write(tmp_path, "val/n02/a.png", "val/n01/b.png")
    split = load_labelled_split(_config(tmp_path, ["tench", "goldfish"]), "val")
    found = {path.name: split.class_names[label] for path, label in _pairs(split)}
    assert found == {"b.png": "tench", "a.png": "goldfish"}


def test_folders_that_fit_neither_way_are_an_error(tmp_path: Path) -> None:
    _write(tmp_path, "val/n02/a.png", "val/cat/b.png")
    with pytest.raises(DataError, match="folder 'n02' is none of the 3 class names"):
        load_labelled_split(_config(tmp_path, ["ant", "cat", "dog"]), "val")


def test_an_image_beside_the_folders_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path, "val/cat/a.png", "val/loose.png")
    config = _config(tmp_path, ["cat"])
    with pytest.raises(DataError, match=r"loose\.png: lies in no class folder"):
        load_labelled_split(config, "val")


def test_unknown_split_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path, "val/cat/a.png", "train/cat/a.png")
    with pytest.raises(ConfigError, match="no split 'test'"):
        load_labelled_split(_config(tmp_path, ["cat"]), "test")


def test_a_folder_of_splits_stands_in_for_a_yaml(tmp_path: Path) -> None:
    _write(tmp_path, "train/dog/a.png", "train/ant/a.png", "test/ant/a.png")
    config = read_class_folders(tmp_path)
    assert (config.train, config.val, config.test) == ("train", None, "test")
    assert config.class_names == ("ant", "dog")
    assert load_labelled_split(config, "test").labels == (0,)
    assert load_labelled_split(config, "train").labels == (0, 1)


def test_a_folder_of_classes_serves_as_every_split(tmp_path: Path) -> None:
    _write(tmp_path, "dog/a.png", "ant/a.png")
    config = read_class_folders(tmp_path)
    assert config.class_names == ("ant", "dog")
    for name in ("train", "val", "test"):
        assert load_labelled_split(config, name).labels == (0, 1)


def test_a_folder_without_folders_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path, "a.png")
    with pytest.raises(DataError, match="no folders of images"):
        read_class_folders(tmp_path)


def test_a_folder_of_images_has_no_class_folders(tmp_path: Path) -> None:
    _write(tmp_path, "train/a.png", "val/cat/a.png")
    config = _config(tmp_path, ["cat"])
    assert not has_class_folders(config, "train")
    assert has_class_folders(config, "val")


def _pairs(split: object) -> list[tuple[Path, int]]:
    return list(zip(split.paths, split.labels, strict=True))  # type: ignore[attr-defined]
