"""Nothing vanishes: what is not read is counted, what has two names is one thing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from detq.config import DatasetConfig
from detq.data.dataset import load_split
from detq.data.images import OTHER_IMAGE_SUFFIXES, find_images, write_image
from detq.data.layouts import read_data
from detq.errors import ConfigError, DataError

NAMES = {0: "cat", 1: "dog"}
ROW = "1 0.5 0.5 0.25 0.5\n"


def _picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path.with_suffix(".jpg")), np.zeros((32, 64, 3), np.uint8))
    path.with_suffix(".jpg").rename(path)


@pytest.fixture
def config(tmp_path: Path) -> DatasetConfig:
    """Two images with an object each."""
    for name in ("a", "b"):
        _picture(tmp_path / f"images/val/{name}.jpg")
        (tmp_path / "labels/val").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"labels/val/{name}.txt").write_text(ROW)
    return DatasetConfig(path=tmp_path, val="images/val", names=NAMES)


@pytest.mark.parametrize("ending", sorted(OTHER_IMAGE_SUFFIXES))
def test_images_of_other_formats_are_counted(config: DatasetConfig, ending: str) -> None:
    (config.path / f"images/val/c{ending}").write_bytes(b"something")
    assert load_split(config, "val").left_out.other_images == 1


@pytest.mark.parametrize("ending", [".jfif", ".jpe", ".mpo", ".JPG"])
def test_jpeg_by_its_other_endings_is_read(config: DatasetConfig, ending: str) -> None:
    _picture(config.path / f"images/val/c{ending}")
    assert len(load_split(config, "val").images) == 3


def test_labels_without_an_image_are_counted(config: DatasetConfig) -> None:
    (config.path / "images/val/b.jpg").unlink()
    split = load_split(config, "val")
    assert (len(split.images), split.left_out.labels_without_image) == (1, 1)


def test_a_list_of_some_images_leaves_no_labels_over(config: DatasetConfig) -> None:
    (config.path / "val.txt").write_text("images/val/a.jpg\n")
    split = load_split(config.model_copy(update={"val": "val.txt"}), "val")
    assert (len(split.images), split.left_out.labels_without_image) == (1, 0)


def test_a_folder_of_two_names_is_one(config: DatasetConfig) -> None:
    for kind in ("images", "labels"):
        (config.path / kind / "again").symlink_to("val")
    both = DatasetConfig(path=config.path, val=["images/val", "images/again"], names=NAMES)
    split = load_split(both, "val")
    assert (len(split.images), split.left_out.repeated_images) == (2, 2)


def test_a_link_to_itself_is_counted(config: DatasetConfig) -> None:
    (config.path / "images/val/self.jpg").symlink_to("self.jpg")
    found = find_images(config.path / "images/val")
    assert (len(found.paths), found.skipped_folders) == (2, 1)


def test_labels_beside_images_are_found_below_a_folder_called_images(tmp_path: Path) -> None:
    _picture(tmp_path / "images/set/a.jpg")
    (tmp_path / "images/set/a.txt").write_text(ROW)
    config = DatasetConfig(path=tmp_path, val="images/set", names=NAMES)
    annotations = load_split(config, "val").annotations
    assert annotations is not None
    assert len(annotations) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [("notes.xml", "<x/>"), ("docker-compose.yaml", "services: {}"), ("a.yaml", "[")],
)
def test_photos_beside_some_other_file_are_photos(tmp_path: Path, name: str, content: str) -> None:
    _picture(tmp_path / "a.jpg")
    (tmp_path / name).write_text(content)
    split = load_split(read_data(tmp_path), "train", with_annotations=False)
    assert [path.name for path in split.paths] == ["a.jpg"]


def test_folders_of_pascal_voc_are_looked_into(tmp_path: Path) -> None:
    xml = "<annotation><object><name>dog</name><bndbox>{}</bndbox></object></annotation>"
    box = "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    for year in ("VOC2007", "VOC2012"):
        _picture(tmp_path / year / "JPEGImages/a.jpg")
        (tmp_path / year / "Annotations").mkdir()
        (tmp_path / year / "Annotations/a.xml").write_text(xml.format(box))
    with pytest.raises(ConfigError, match=r"several data sets \(VOC2007, VOC2012\); pass one"):
        read_data(tmp_path)
    (tmp_path / "VOC2012").rename(tmp_path.with_name("elsewhere"))
    assert read_data(tmp_path).class_names == ("dog",)


def test_one_convex_row_proves_no_outline(config: DatasetConfig) -> None:
    """A box with three keypoints that happen to lie around it."""
    row = "1 0.5 0.3 0.4 0.4 0.45 0.6 0.3 0.6 0.25 0.4\n"
    (config.path / "labels/val/a.txt").write_text(row)
    with pytest.raises(DataError, match="kpt_shape"):
        load_split(config, "val")


def test_a_picture_that_does_not_fit_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(27, "File too large")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="File too large"):
        write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    assert not list(tmp_path.iterdir())
