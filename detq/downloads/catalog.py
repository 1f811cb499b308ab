"""What has a name: published models and data sets, where they lie, and what is known of them.

The addresses are those that the publishers' own documents name (weights/README.md says which). Not
listed are the larger MBLA models: the page that announces them links to files of other names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar
from urllib.parse import urlsplit

from detq.errors import DownloadError
from detq.records import SizeHW

_YOLOV6 = "https://github.com/meituan/YOLOv6/releases/download"
_COCO = "http://images.cocodataset.org"


@dataclass(frozen=True)
class Model:
    """A checkpoint that was trained on COCO train2017.

    ``published_map`` is the authors' mAP 0.5:0.95 on COCO val2017 in percent at ``size_hw``; None
    where they state none for this very file. ``digest`` is the file's SHA-256 (hex) if they tell
    it.
    """

    name: str
    url: str
    size_hw: SizeHW
    published_map: float | None
    digest: str | None = None

    def __post_init__(self) -> None:
        if file_name(self.url) != f"{self.name}.pt":
            raise DownloadError(f"{self.name}: expected an address of {self.name}.pt: {self.url}")
        if min(self.size_hw) < 1:
            raise DownloadError(f"{self.name}: size_hw must be positive, got {self.size_hw}")
        _check_digest(self.name, self.digest)
        if self.published_map is not None and not 0 < self.published_map < 100:
            raise DownloadError(f"{self.name}: expected mAP in percent, got {self.published_map}")


@dataclass(frozen=True)
class Archive:
    """A zip of which the folder ``holds`` becomes ``becomes`` in the data set (``.``: all of it).

    Nothing else that the zip may hold is kept. ``digest`` is its SHA-256 (hex) if it is known.
    """

    url: str
    holds: str
    becomes: str = "."
    digest: str | None = None

    def __post_init__(self) -> None:
        for folder in map(PurePosixPath, (self.holds, self.becomes)):
            if folder.is_absolute() or ".." in folder.parts:
                raise DownloadError(f"{self.url}: {folder} would leave the data set's folder")
        _check_digest(self.url, self.digest)


@dataclass(frozen=True)
class Dataset:
    """Archives that together make one folder, which the data set description names as ``path``."""

    name: str
    archives: tuple[Archive, ...]

    def __post_init__(self) -> None:
        places = [archive.becomes for archive in self.archives]
        if not places or len(set(places)) < len(places) or ("." in places and len(places) > 1):
            raise DownloadError(f"{self.name}: each archive needs a place of its own, got {places}")


def _check_digest(name: str, digest: str | None) -> None:
    if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
        raise DownloadError(f"{name}: expected a SHA-256 in 64 small hex digits, got {digest!r}")


def file_name(url: str) -> str:
    """``https://host/a/b.pt?x`` -> ``b.pt``."""
    return PurePosixPath(urlsplit(url).path).name


def find_model(name: str) -> Model:
    """The model of that name. Raises DownloadError, which lists the known ones."""
    return _find(MODELS, name, "model")


def find_dataset(name: str) -> Dataset:
    """The data set of that name. Raises DownloadError, which lists the known ones."""
    return _find(DATASETS, name, "data set")


_Entry = TypeVar("_Entry", Model, Dataset)


def _find(entries: Mapping[str, _Entry], name: str, kind: str) -> _Entry:
    if name not in entries:
        raise DownloadError(f"{name}: no such {kind} to download; known: {', '.join(entries)}")
    return entries[name]


def _yolov6(name: str, side_px: int, published_map: float | None, release: str = "0.4.0") -> Model:
    return Model(name, f"{_YOLOV6}/{release}/{name}.pt", (side_px, side_px), published_map)


MODELS: Mapping[str, Model] = {
    model.name: model
    for model in (
        _yolov6("yolov6n", 640, 37.5),
        _yolov6("yolov6s", 640, 45.0),
        _yolov6("yolov6m", 640, 50.0),
        _yolov6("yolov6l", 640, 52.8),
        _yolov6("yolov6n6", 1280, 44.9),
        _yolov6("yolov6s6", 1280, 50.3),
        _yolov6("yolov6m6", 1280, 55.2),
        _yolov6("yolov6l6", 1280, 57.2),
        _yolov6("yolov6s_mbla", 640, 47.0),
        _yolov6("yolov6m_mbla", 640, 50.3),
        _yolov6("yolov6lite_s", 320, 22.4),
        _yolov6("yolov6lite_m", 320, 25.1),
        _yolov6("yolov6lite_l", 320, 28.0),
        _yolov6("yolov6n_base", 640, 36.6, "0.3.0"),
        _yolov6("yolov6s_base", 640, 45.3, "0.3.0"),
        _yolov6("yolov6m_base", 640, 49.4, "0.3.0"),
        _yolov6("yolov6l_base", 640, 51.1, "0.3.0"),
        _yolov6("yolov6n_qa", 640, 37.1, "0.3.0"),
        _yolov6("yolov6s_qa", 640, 44.7, "0.3.0"),
        _yolov6("yolov6m_qa", 640, 49.7, "0.3.0"),
        _yolov6("yolov6t", 640, None, "0.2.0"),  # 40.3 and 41.1 are given, for two trainings
        _yolov6("yolov6l_relu", 640, 51.7, "0.2.0"),
        _yolov6("yolov6s_v2_reopt", 640, 43.1, "0.2.0"),
    )
}

DATASETS: Mapping[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "coco128",
            (
                Archive(
                    "https://github.com/ultralytics/assets/releases/download/v0.0.0/coco128.zip",
                    holds="coco128",
                ),
            ),
        ),
        Dataset(
            "coco",
            (
                Archive(
                    f"{_COCO}/annotations/annotations_trainval2017.zip",
                    holds="annotations",
                    becomes="annotations",
                ),
                Archive(f"{_COCO}/zips/val2017.zip", holds="val2017", becomes="images/val2017"),
                Archive(
                    f"{_COCO}/zips/train2017.zip", holds="train2017", becomes="images/train2017"
                ),
            ),
        ),
    )
}
