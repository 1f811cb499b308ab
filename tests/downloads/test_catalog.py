"""The list of names is consistent, and every name leads to one file."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from detq.config import read_dataset
from detq.downloads.catalog import (
    DATASETS,
    MODELS,
    Archive,
    Dataset,
    Model,
    file_name,
    find_dataset,
    find_model,
)
from detq.errors import DownloadError

DESCRIPTIONS = Path(__file__).parents[2] / "configs/data"
URL = "https://host/a.pt"


def test_official_names_are_known() -> None:
    families = "n s m l n6 s6 m6 l6 s_mbla m_mbla lite_s lite_m lite_l n_base s_base m_base l_base"
    assert {f"yolov6{family}" for family in families.split()} <= set(MODELS)
    assert set(DATASETS) == {"coco128", "coco"}


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    model = find_model(name)
    assert model.name == name
    assert model.url.startswith("https://github.com/meituan/YOLOv6/releases/download/0.")
    assert all(side % 64 == 0 for side in model.size_hw)
    assert model.published_map is None or 20 < model.published_map < 60


def test_a_mirror_can_hold_everything_in_one_folder() -> None:
    urls = [model.url for model in MODELS.values()]
    urls += [archive.url for dataset in DATASETS.values() for archive in dataset.archives]
    assert len({file_name(url) for url in urls}) == len(urls)
    assert {urlsplit(url).scheme for url in urls} <= {"http", "https"}


@pytest.mark.parametrize("name", DATASETS)
def test_data_set_is_what_its_description_reads(name: str) -> None:
    config = read_dataset(DESCRIPTIONS / f"{name}.yaml")
    places = {archive.becomes for archive in find_dataset(name).archives}
    assert config.path.name == name
    assert config.train
    assert config.val
    if "." not in places:
        folders = {str(Path(file).parent) for file in config.annotations.values()}
        assert {config.train, config.val, *folders} == places


def test_coco128_has_the_classes_of_coco() -> None:
    coco, small = (read_dataset(DESCRIPTIONS / f"{name}.yaml") for name in ("coco", "coco128"))
    assert small.class_names == coco.class_names
    assert small.annotations == {}
    assert (small.train, small.val) == ("images/train2017", "images/train2017")


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DownloadError, match=r"yolov6x: no such model.*known: yolov6n, yolov6s"):
        find_model("yolov6x")
    with pytest.raises(DownloadError, match=r"voc: no such data set.*known: coco128, coco$"):
        find_dataset("voc")


def test_file_name_of_an_address() -> None:
    assert file_name("https://host/b/a.pt?token=c/d#e") == "a.pt"


@pytest.mark.parametrize(
    ("url", "size_hw", "published_map"),
    [
        ("https://host/b.pt", (640, 640), 40.0),
        (URL, (0, 640), 40.0),
        (URL, (640, 640), 100.0),
        (URL, (640, 640), 0.0),
    ],
    ids=["other file", "no size", "100%", "0%"],
)
def test_model_checks_itself(
    url: str, size_hw: tuple[int, int], published_map: float | None
) -> None:
    assert Model("a", URL, (640, 640), None).published_map is None
    with pytest.raises(DownloadError, match=r"^a: "):
        Model("a", url, size_hw, published_map)


@pytest.mark.parametrize(
    ("holds", "becomes"), [("../a", "."), ("/a", "."), ("a", ".."), ("a", "/")]
)
def test_archive_checks_itself(holds: str, becomes: str) -> None:
    with pytest.raises(DownloadError, match="would leave"):
        Archive("https://host/a.zip", holds, becomes)


@pytest.mark.parametrize("places", [(), ("a", "a"), (".", "a")], ids=str)
def test_data_set_checks_itself(places: tuple[str, ...]) -> None:
    archives = tuple(Archive("https://host/a.zip", "a", place) for place in places)
    with pytest.raises(DownloadError, match="a place of its own"):
        Dataset("mine", archives)
