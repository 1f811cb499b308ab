"""What ``--data`` may name beside a YAML: the layouts that other programs leave on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detq.config import DatasetConfig
from detq.data.dataset import load_split
from detq.data.layouts import read_data
from detq.errors import ConfigError, DataError

NAMES = ("cat", "dog")
BOX = (16.0, 8.0, 24.0, 16.0)
"""Left, top, width, height of a dog in each image of 64x32 pixels."""


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((32, 64, 3), np.uint8))


def _label(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    left, top, width, height = BOX
    shares = ((left + width / 2) / 64, (top + height / 2) / 32, width / 64, height / 32)
    path.write_text("1 " + " ".join(map(str, shares)))


def _json(path: Path, *file_names: str, root: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
    if root:
        categories = [{"id": 0, "name": "animals", "supercategory": "none"}] + [
            {**category, "supercategory": "animals"} for category in categories
        ]
    document = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(file_names)],
        "annotations": [
            {"id": n + 1, "image_id": n, "category_id": 2, "bbox": BOX}
            for n in range(len(file_names))
        ],
        "categories": categories,
    }
    path.write_text(json.dumps(document))


def _xml(path: Path, *, name: str = "dog", difficult: int = 0, head: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    left, top, width, height = BOX
    corners = {"xmin": left + 1, "ymin": top + 1, "xmax": left + width, "ymax": top + height}
    box = "".join(f"<{tag}>{pixel}</{tag}>" for tag, pixel in corners.items())
    path.write_text(
        f"{head}<annotation><object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{box}</bndbox></object></annotation>"
    )


def _roboflow_yolo(folder: Path) -> Path:
    for split in ("train", "valid"):
        _image(folder / split / "images/a.jpg")
        _label(folder / split / "labels/a.txt")
    (folder / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n"
        "roboflow:\n  workspace: w\n"
    )
    return folder


def _roboflow_coco(folder: Path) -> Path:
    for split in ("train", "valid"):
        _image(folder / split / "a.jpg")
        _json(folder / split / "_annotations.coco.json", "a.jpg", root=True)
    return folder


def _roboflow_voc(folder: Path) -> Path:
    for split in ("train", "valid"):
        _image(folder / split / "a.jpg")
        _xml(folder / split / "a.xml")
    return folder


def _roboflow_coco_file(folder: Path) -> Path:
    return _roboflow_coco(folder) / "valid/_annotations.coco.json"


def _coco(folder: Path) -> Path:
    for split in ("train", "val"):
        _image(folder / f"{split}2017/a.jpg")
        _json(folder / f"annotations/instances_{split}2017.json", "a.jpg")
        (folder / f"annotations/captions_{split}2017.json").write_text("{}")
    return folder


def _coco_file(folder: Path) -> Path:
    return _coco(folder) / "annotations/instances_val2017.json"


def _ultralytics_coco_file(folder: Path) -> Path:
    for split in ("train", "val"):
        _image(folder / f"images/{split}2017/a.jpg")
    _json(folder / "annotations/instances_val2017.json", "a.jpg")
    return folder / "annotations/instances_val2017.json"


def _cvat(folder: Path) -> Path:
    _image(folder / "images/default/a.jpg")
    _json(folder / "annotations/instances_default.json", "a.jpg")
    return folder / "annotations/instances_default.json"


def _label_studio(folder: Path) -> Path:
    _image(folder / "images/1/a.jpg")
    _json(folder / "result.json", "images\\1\\a.jpg")
    return folder


def _labelme(folder: Path) -> Path:
    _image(folder / "JPEGImages/a.jpg")
    _json(folder / "annotations.json", "JPEGImages/a.jpg")
    return folder / "annotations.json"


def _nested(folder: Path) -> Path:
    _image(folder / "images/somewhere/a.jpg")
    _json(folder / "annotations/val.json", "a.jpg")
    return folder / "annotations/val.json"


def _voc(folder: Path) -> Path:
    for name in ("a", "b"):
        _image(folder / f"JPEGImages/{name}.jpg")
        _xml(folder / f"Annotations/{name}.xml")
    for split in ("train", "val"):
        path = folder / f"ImageSets/Main/{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a\n")
    return folder


def _voc_of_cvat(folder: Path) -> Path:
    (_voc(folder) / "labelmap.txt").write_text("# label:color\nbackground:0::\ncat:1::\ndog:2::\n")
    return folder


def _label_img(folder: Path) -> Path:
    _image(folder / "a.jpg")
    _label(folder / "a.txt")
    (folder / "classes.txt").write_text("cat\r\ndog\r\n")
    return folder


def _labels_and_classes(folder: Path) -> Path:
    _image(folder / "images/a.jpg")
    _label(folder / "labels/a.txt")
    (folder / "classes.txt").write_text("cat\ndog\n")
    return folder


LAYOUTS: list[Callable[[Path], Path]] = [
    *(_roboflow_yolo, _roboflow_coco, _roboflow_voc, _roboflow_coco_file, _coco, _coco_file),
    *(_ultralytics_coco_file, _cvat, _label_studio, _labelme, _nested, _voc, _voc_of_cvat),
    *(_label_img, _labels_and_classes),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__.strip("_"))
def test_layout_is_read_without_a_yaml_of_ones_own(
    tmp_path: Path, layout: Callable[[Path], Path]
) -> None:
    config = read_data(layout(tmp_path / "data set"))
    split = load_split(config, "val")
    assert [path.name for path in split.paths] == ["a.jpg"]
    assert split.annotations is not None
    (dog,) = split.annotations
    assert split.class_names[dog.class_id] == "dog"
    assert dog.box_xywh_px == BOX
    assert load_split(config, "train", with_annotations=False).paths[0].name == "a.jpg"
    if layout not in (_roboflow_voc, _voc):  # there an XML names only the classes that it shows
        assert config.class_names == NAMES


def test_folder_of_photographs_is_every_split_and_has_no_truth(tmp_path: Path) -> None:
    for name in ("a.jpg", "2023/b.jpg"):
        _image(tmp_path / name)
    config = read_data(tmp_path)
    for name in ("train", "val", "test"):
        split = load_split(config, name)
        assert (len(split.paths), split.class_names, split.annotations) == (2, (), None)


def test_list_of_images_is_every_split(tmp_path: Path) -> None:
    _label_img(tmp_path)
    (tmp_path / "list.txt").write_text("./a.jpg\n")
    config = read_data(tmp_path / "list.txt")
    assert load_split(config, "val").annotations is not None
    assert config.class_names == NAMES


def test_folders_of_photographs_name_no_classes_of_objects(tmp_path: Path) -> None:
    """For a classifier they do; a label file's numbers do not mean them."""
    for name in ("holiday", "work"):
        _image(tmp_path / name / "a.jpg")
        _label(tmp_path / name / "a.txt")
    config = read_data(tmp_path)
    assert config.names_are_folders
    assert load_split(config, "val").annotations is None


def test_several_yaml_files_are_an_error_unless_one_is_called_data(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("val: .\nnames: [a]")
    with pytest.raises(ConfigError, match="holds 2 YAML files"):
        read_data(tmp_path)
    (tmp_path / "data.yaml").write_text("val: .\nnames: [b]")
    assert read_data(tmp_path).class_names == ("b",)


def test_jsons_of_different_classes_are_an_error(tmp_path: Path) -> None:
    _roboflow_coco(tmp_path)
    path = tmp_path / "train/_annotations.coco.json"
    path.write_text(path.read_text().replace('"cat"', '"ox"'))
    with pytest.raises(DataError, match="name different classes"):
        read_data(tmp_path)


def test_image_that_a_json_lists_and_nobody_has_is_an_error(tmp_path: Path) -> None:
    path = _coco_file(tmp_path)
    _json(path, "a.jpg", "b.jpg")
    with pytest.raises(DataError, match=r"'b\.jpg' is not among the split's images"):
        load_split(read_data(path), "val")


def _voc_config(folder: Path, **more: Any) -> DatasetConfig:
    _image(folder / "images/a.jpg")
    return DatasetConfig.model_validate(
        {"path": folder, "val": "images", "names": NAMES, "annotations": {"val": "xml"}, **more}
    )


def test_difficult_object_of_voc_is_neither_missed_nor_found(tmp_path: Path) -> None:
    _xml(tmp_path / "xml/a.xml", difficult=1)
    split = load_split(_voc_config(tmp_path), "val")
    assert split.annotations is not None
    assert split.annotations[0].is_crowd
    assert split.counts().ignored_objects == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "not a Pascal VOC file"),
        ("<annotation><object><name>dog</name></object></annotation>", "without bndbox"),
        ("<annotation><object><bndbox/></object></annotation>", "object without name"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "document type"),
    ],
    ids=["cut", "no box", "no name", "entities"],
)
def test_wrong_voc_file_is_an_error_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml/a.xml").write_text(text)
    with pytest.raises(DataError, match=rf"a\.xml: .*{message}"):
        load_split(_voc_config(tmp_path), "val")


@pytest.mark.parametrize(
    ("names", "message"),
    [(("cat", "ox"), "'dog' is not a class"), (("dog", "dog"), "several classes are called 'dog'")],
)
def test_voc_object_of_no_or_two_classes_is_an_error(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    _xml(tmp_path / "xml/a.xml")
    with pytest.raises(DataError, match=message):
        load_split(_voc_config(tmp_path, names=names), "val")


def test_what_keeps_its_reader_waiting_is_refused(tmp_path: Path) -> None:
    for name in ("data.yaml", "val.json"):
        os.mkfifo(tmp_path / name)
        with pytest.raises((ConfigError, DataError), match="no regular file"):
            read_data(tmp_path / name)
