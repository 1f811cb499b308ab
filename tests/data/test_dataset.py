from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detq.config import DatasetConfig
from detq.data.coco_file import CocoFile
from detq.data.dataset import load_split, sample_images
from detq.data.yolo_labels import label_file
from detq.errors import ConfigError, DataError
from detq.records import DataCounts


@pytest.fixture
def config(tmp_path: Path) -> DatasetConfig:
    """Three 100x200 images (H x W) under images/val, classes cat and dog."""
    (tmp_path / "images/val").mkdir(parents=True)
    (tmp_path / "labels/val").mkdir(parents=True)
    for name in ("a", "b", "c"):
        cv2.imwrite(str(tmp_path / f"images/val/{name}.png"), np.zeros((100, 200, 3), np.uint8))
    names = {0: "cat", 1: "dog"}
    return DatasetConfig(path=tmp_path, val="images/val", names=names)


def _document() -> dict[str, Any]:
    return {
        "images": [{"id": 70, "file_name": "b.png"}, {"id": 7, "file_name": "val/a.png"}],
        "categories": [
            {"id": 18, "name": "dog"},
            {"id": 90, "name": "cat"},
            {"id": 3, "name": "ox"},
        ],
        "annotations": [
            {"id": 0, "image_id": 7, "category_id": 90, "bbox": [1, 2, 30, 40], "area": 500},
            {"id": 1, "image_id": 70, "category_id": 18, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        ],
    }


def _with_json(config: DatasetConfig, document: object) -> DatasetConfig:
    text = document if isinstance(document, str) else json.dumps(document)
    (config.path / "val.json").write_text(text)
    return config.model_copy(update={"annotations": {"val": "val.json"}})


def _label(config: DatasetConfig, text: str) -> None:
    (config.path / "labels/val/a.txt").write_text(text)


def test_json_categories_are_mapped_by_name(config: DatasetConfig) -> None:
    split = load_split(_with_json(config, _document()), "val")
    assert [(image.path.name, image.image_id) for image in split.images] == [
        ("b.png", 70),
        ("a.png", 7),
    ]
    truth = split.document()
    assert truth is not None
    cat, dog = truth["annotations"]
    assert (cat["image_id"], cat["category_id"], cat["bbox"]) == (7, 0, [1, 2, 30, 40])
    assert (cat["area"], cat["iscrowd"]) == (500, 0)
    assert (dog["image_id"], dog["category_id"], dog["area"], dog["iscrowd"]) == (70, 1, 12, 1)
    assert truth["categories"] == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]


def test_json_keeps_its_annotation_ids(config: DatasetConfig) -> None:
    """pycocotools' result depends on them: a matched object with the id 0 counts as missed."""
    document = _document()
    document["annotations"][1]["id"] = 33
    truth = load_split(_with_json(config, document), "val").document()
    assert truth is not None
    assert [item["id"] for item in truth["annotations"]] == [0, 33]


def test_label_files_number_their_objects_as_yolov6_does(config: DatasetConfig) -> None:
    _label(config, "0 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1")
    (config.path / "labels/val/c.txt").write_text("1 0.5 0.5 0.1 0.1")
    truth = load_split(config, "val").document()
    assert truth is not None
    assert [item["id"] for item in truth["annotations"]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("part", "index", "change", "message"),
    [
        ("annotations", 0, {"category_id": 5}, r"annotations\[0\]: category_id 5"),
        ("annotations", 1, {"category_id": 3}, r"annotations\[1\]: category 'ox' is not a class"),
        ("annotations", 1, {"id": 0}, "2 annotations have the id 0"),
        ("annotations", 1, {"image_id": 8}, "image_id 8"),
        ("annotations", 0, {"bbox": [1, 2, 3]}, r"annotations\[0\]: bbox: .*got 3 numbers"),
        ("annotations", 0, {"bbox": [1, 2, -3, 4]}, "negative size"),
        ("annotations", 0, {"bbox": [1, 2, float("nan"), 4]}, "finite"),
        ("annotations", 0, {"bbox": [1, "x", 3, 4]}, r"annotations\.0\.bbox\.1"),
        ("images", 0, {"file_name": "z.png"}, "'z.png' is not among"),
        ("images", 0, {"id": 7}, "2 images have the id 7"),
        ("images", 0, {"file_name": "a.png"}, "images 70 and 7 are the same file"),
        ("categories", 0, {"name": "cat"}, "2 categories have the name 'cat'"),
        ("categories", 0, {"id": 3}, "2 categories have the id 3"),
    ],
)
def test_contradictory_json_is_an_error_that_says_where(
    config: DatasetConfig, part: str, index: int, change: dict[str, Any], message: str
) -> None:
    document = _document()
    document[part][index].update(change)
    with pytest.raises(DataError, match=rf"val\.json: .*{message}"):
        load_split(_with_json(config, document), "val")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": []}', '{"images": 3}'])
def test_malformed_json_is_an_error(config: DatasetConfig, text: str) -> None:
    with pytest.raises(DataError, match="not a COCO instances file"):
        load_split(_with_json(config, text), "val")


@pytest.mark.parametrize(
    "change",
    [
        lambda item: item.update(id=str(item["id"]), image_id=str(item["image_id"])),
        lambda item: item.update(id=float(item["id"]), category_id=float(item["category_id"])),
        lambda item: item.update(iscrowd=bool(item.get("iscrowd"))),
        lambda item: item.update(iscrowd=item.get("iscrowd")),
    ],
    ids=["text", "float", "bool", "null"],
)
def test_json_says_the_same_in_other_types(
    config: DatasetConfig, change: Callable[[dict[str, Any]], None]
) -> None:
    document = _document()
    expected = load_split(_with_json(config, document), "val")
    for item in document["annotations"]:
        change(item)
    assert load_split(_with_json(config, document), "val") == expected


def test_ids_that_are_no_numbers_are_replaced(config: DatasetConfig) -> None:
    document = _document()
    document["images"][1]["id"] = document["annotations"][0]["image_id"] = "f00d"
    document["annotations"][1].pop("id")
    split = load_split(_with_json(config, document), "val")
    assert split.annotations is not None
    by_id = {image.image_id: image.path.name for image in split.images}
    assert [by_id[item.image_id] for item in split.annotations] == ["a.png", "b.png"]
    assert [item.annotation_id for item in split.annotations] == [1, 2]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a.png", "images\\val\\a.png"),
        ("a b.png", "val/a%20b.png"),
        ("a\\b.png", "a\\b.png"),
        ("a:b.png", "a:b.png"),
        (unicodedata.normalize("NFD", "é.png"), unicodedata.normalize("NFC", "val/é.png")),
    ],
    ids=["Windows", "URL", "a backslash on Linux", "colon", "macOS"],
)
def test_image_of_a_json_is_found_however_its_path_is_written(
    config: DatasetConfig, name: str, written: str
) -> None:
    (config.path / "images/val/a.png").rename(config.path / "images/val" / name)
    document = _document()
    document["images"][1]["file_name"] = written
    assert load_split(_with_json(config, document), "val").images[1].path.name == name


@pytest.mark.parametrize("box", [{}, {"bbox": []}, {"bbox": None}], ids=["none", "empty", "null"])
def test_object_without_a_box_has_that_of_its_polygons(
    config: DatasetConfig, box: dict[str, Any]
) -> None:
    document = _document()
    item = document["annotations"][1]
    del item["bbox"]
    item.update(box, segmentation=[[1, 2, 5, 2, 5, 9], [7, 3, 8, 3, 8, 4]])
    split = load_split(_with_json(config, document), "val")
    assert split.annotations is not None
    assert split.annotations[1].box_xywh_px == (1, 2, 7, 7)
    item["segmentation"] = {"counts": "abc", "size": [9, 9]}
    with pytest.raises(DataError, match=r"annotations\[1\]: neither a bbox nor polygons"):
        load_split(_with_json(config, document), "val")


def test_root_category_may_be_called_like_a_class(config: DatasetConfig) -> None:
    """Roboflow's category 0 is the super category of the others, and has no objects."""
    document = _document()
    document["categories"].insert(0, {"id": 0, "name": "cat", "supercategory": "none"})
    split = load_split(_with_json(config, document), "val")
    assert split.annotations is not None
    assert [item.class_id for item in split.annotations] == [0, 1]


def test_categories_of_one_name_are_told_apart_by_number(config: DatasetConfig) -> None:
    document = _document()
    document["categories"][0]["name"] = "cat"  # number 18, before 90
    cats = config.model_copy(update={"names": {0: "cat", 1: "ox", 2: "cat"}})
    split = load_split(_with_json(cats, document), "val")
    assert split.annotations is not None
    assert [item.class_id for item in split.annotations] == [2, 0]


def test_category_may_be_called_by_a_number_or_a_truth_value(config: DatasetConfig) -> None:
    document = _document()
    document["categories"][0]["name"], document["categories"][1]["name"] = 1, True
    odd = config.model_copy(update={"names": {0: "1", 1: "true"}})
    split = load_split(_with_json(odd, document), "val")
    assert split.annotations is not None
    assert [item.class_id for item in split.annotations] == [1, 0]


def test_namesakes_are_told_apart_by_their_folder(config: DatasetConfig) -> None:
    for folder in ("x", "y"):
        (config.path / "images/val" / folder).mkdir()
        cv2.imwrite(str(config.path / f"images/val/{folder}/n.png"), np.zeros((9, 9, 3), np.uint8))
    document = _document()
    document["images"][0]["file_name"] = "y/n.png"
    split = load_split(_with_json(config, document), "val")
    assert split.images[0].path == config.path / "images/val/y/n.png"
    document["images"][0]["file_name"] = "n.png"
    with pytest.raises(DataError, match="may be"):
        load_split(_with_json(config, document), "val")


def test_yolo_labels_are_shares_of_the_image(config: DatasetConfig) -> None:
    _label(config, "1 0.5 0.5 0.2 0.4\n\n0 0.1 0.2 0.1 0.6 0.3 0.2\n")
    split = load_split(config, "val")
    assert split.annotations is not None
    box, outline = split.annotations
    assert (box.image_id, box.class_id) == (split.images[0].image_id, 1)
    np.testing.assert_allclose(box.box_xywh_px, [80, 30, 40, 40])
    np.testing.assert_allclose(outline.box_xywh_px, [20, 20, 40, 40])
    assert len(split.images) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", r"class 2 is outside 0\.\.1"),
        ("-1 0.5 0.5 0.1 0.1", "class -1"),
        ("0.5 0.5 0.5 0.1 0.1", r"class 0\.5"),
        ("0 0.5 0.5 0.1", "4 fields"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 fields: predictions with a confidence"),
        ("0 0.5 0.5 0.1 0.1 0.5 0.5 2", r"name `kpt_shape: \[1, 3\]`"),
        ("0 0.5 0.5 0.1 0.1 1 1 1 1 1", "10 fields"),
        ("0 0.5 0.5 0.1 x", "expected numbers"),
        ("0 80 0.5 0.1 0.1", "shares of the image"),
        ("0 nan 0.5 0.1 0.1", "shares of the image"),
    ],
)
def test_malformed_label_is_an_error_with_file_and_line(
    config: DatasetConfig, line: str, message: str
) -> None:
    _label(config, f"0 0.5 0.5 0.1 0.1\n{line}")
    with pytest.raises(DataError, match=rf"a\.txt:2: .*{message}"):
        load_split(config, "val")


def test_label_that_is_there_twice_counts_once(config: DatasetConfig) -> None:
    """YOLOv6 and Ultralytics compare numbers, not texts, and then keep the order of the values."""
    _label(config, "1 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n1 .50 0.5 0.10 0.1\n")
    split = load_split(config, "val")
    assert split.annotations is not None
    assert [item.class_id for item in split.annotations] == [0, 1]
    assert split.counts().duplicate_rows == 1


@pytest.mark.parametrize(
    ("width", "images"), [("1.00000001", 3), ("1.0000001", 2), ("-0.0001", 2), ("1.009", 2)]
)
def test_image_with_a_label_beyond_it_is_left_out_and_counted(
    config: DatasetConfig, width: str, images: int
) -> None:
    """Both programs compare in single precision, in which 1.00000001 is 1."""
    _label(config, f"0 0.5 0.5 0.1 0.1\n0 0.5 0.5 {width} 0.1\n")
    split = load_split(config, "val")
    assert (len(split.images), split.counts().mislabelled_images) == (images, 3 - images)


def test_labels_without_names_for_their_classes_say_nothing(config: DatasetConfig) -> None:
    _label(config, "0 0.5 0.5 0.1 0.1")
    unnamed = DatasetConfig(path=config.path, val="images/val")
    assert load_split(unnamed, "val").annotations is None


def test_what_does_not_count_is_counted(config: DatasetConfig) -> None:
    _label(config, "0 0.5 0.5 0 0.1")
    (config.path / "labels/val/b.txt").write_text("0 0.5 0.5 0.1 0.1")
    (config.path / "images/val/b.png").write_bytes(b"no image")
    (config.path / "images/val/loop").symlink_to("..")
    split = load_split(config.model_copy(update={"val": ("images/val", "images/val/a.png")}), "val")
    assert split.counts() == DataCounts(
        images=2,
        images_without_objects=1,
        objects=1,
        objects_without_area=1,
        damaged_images=1,
        repeated_images=1,
        skipped_folders=1,
        damaged_files=("b.png",),
    )


def test_split_without_any_label_file_has_no_ground_truth(config: DatasetConfig) -> None:
    assert load_split(config, "val").annotations is None


def test_annotations_are_not_read_unless_wanted(config: DatasetConfig) -> None:
    split = load_split(_with_json(config, "{"), "val", with_annotations=False)
    assert len(split.images) == 3
    assert split.annotations is None


def test_unknown_split_is_an_error_that_lists_the_known(config: DatasetConfig) -> None:
    with pytest.raises(ConfigError, match="no split 'test'; it names: val"):
        load_split(config, "test")


def test_empty_folder_is_an_error(config: DatasetConfig) -> None:
    (config.path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        load_split(config.model_copy(update={"val": "empty"}), "val")


def test_list_of_images_is_a_split(config: DatasetConfig) -> None:
    (config.path / "val.txt").write_text("./images/val/c.png\n./images/val/a.png\n")
    _label(config, "0 0.5 0.5 0.1 0.1")
    split = load_split(config.model_copy(update={"val": "val.txt"}), "val")
    assert [path.name for path in split.paths] == ["c.png", "a.png"]
    assert split.annotations is not None
    assert split.annotations[0].image_id == split.images[1].image_id


def test_sample_depends_on_the_seed_alone(config: DatasetConfig) -> None:
    split = load_split(config, "val")
    assert len(sample_images(split, 2, seed=0)) == 2
    assert sample_images(split, 2, seed=0) == sample_images(split, 2, seed=0)
    assert len({sample_images(split, 2, seed=seed) for seed in range(20)}) == 3
    assert sample_images(split, 10, seed=0) == split.paths
    with pytest.raises(DataError, match="cannot choose 0"):
        sample_images(split, 0, seed=0)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/val/a.jpg", "/d/labels/val/a.txt"),
        ("/images/x/images/a.b.png", "/images/x/labels/a.b.txt"),
        ("/d/val/a.jpg", "/d/val/a.txt"),
    ],
)
def test_label_file_of_an_image(image: str, label: str) -> None:
    assert label_file(Path(image)) == Path(label)


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_both_forms_of_bccd_say_the_same(shared: Path, name: str) -> None:
    names = {0: "RBC", 1: "WBC", 2: "Platelets"}
    labels = DatasetConfig.model_validate(
        {"path": shared / "data/bccd", "names": names, name: f"images/{name}"}
    )
    document = labels.model_copy(
        update={"annotations": {name: f"annotations/instances_{name}.json"}}
    )
    by_file = []
    for config in (labels, document):
        split = load_split(config, name)
        assert split.annotations is not None
        names_by_id = {image.image_id: image.path.name for image in split.images}
        by_file.append(
            sorted(
                (names_by_id[item.image_id], item.class_id, *np.round(item.box_xywh_px, 3))
                for item in split.annotations
            )
        )
    assert by_file[0] == by_file[1]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(
    parts=st.dictionaries(st.sampled_from(["images", "annotations", "x", 'ä"\\']), JSON),
    indent=st.none() | st.integers(0, 3),
)
@settings(deadline=None)
def test_parts_of_a_json_are_those_of_the_standard_library(
    parts: dict[str, Any], indent: int | None
) -> None:
    text = json.dumps(parts, indent=indent)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_text(text, encoding="utf-8")
        for name in ("images", "annotations", "x"):
            if isinstance(parts.get(name), list):
                assert repr(list(CocoFile(path)._raw(name))) == repr(json.loads(text)[name])
            else:
                with pytest.raises(DataError, match=r"missing|expected a list"):
                    list(CocoFile(path)._raw(name))


@given(cut=st.integers(0, 400), put=st.sampled_from(["", "]", "}", ",", '"', "1", "[", "NaN"]))
@settings(deadline=None)
def test_torn_json_is_an_error_where_the_standard_library_has_one(cut: int, put: str) -> None:
    whole = json.dumps(_document())
    text = whole[: cut % len(whole)] + put
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_text(text, encoding="utf-8")
        try:
            json.loads(text)
        except ValueError:
            with pytest.raises(DataError, match="not a COCO instances file"):
                CocoFile(path).images()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a COCO instances file (file: "),
        ('{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [', "(file: "),
        ("[]", "(file: expected an object)"),
        ("{}", "(images: missing)"),
        ('{"images": [1], "images": []}', "(file: has the key 'images' twice)"),
        ('{"images": [1,]}', "(file: expected a comma or ]: line 1 column"),
        ('{"images": [1]} x', "(file: more behind its end"),
        ('{"x": ' + "[" * 100_000 + "]" * 100_000 + "}", "(file: is nested too deeply)"),
        ('{"images": []}', "(images: expected at least one)"),
        ('{"images": {"a": 1}}', "(images: expected a list)"),
        ('{"images": [{"file_name": "a.png"}]}', "(images.0.id: Field required)"),
        ('{"images": [3]}', "(images.0: "),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}], "categories": null}',
            "(categories: expected a list)",
        ),
    ],
)
def test_what_is_no_coco_json_is_told_in_one_line(
    config: DatasetConfig, text: str, message: str
) -> None:
    named = _with_json(config, text)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        load_split(named, "val")
    assert len(str(caught.value).splitlines()) == 1
