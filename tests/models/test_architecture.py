from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_networks import random_images, small_network

from detq.errors import ConfigError, DetqError
from detq.models import OFFICIAL_NAMES, Stage, YOLOv6Architecture, build, from_document, official

# Published parameter counts in training form with 80 classes.
PARAMETERS = {
    "yolov6n": 5_058_270,
    "yolov6s": 20_147_358,
    "yolov6m": 37_740_982,
    "yolov6l": 59_638_731,
    "yolov6n6": 11_239_346,
    "yolov6s6": 44_797_426,
    "yolov6m6": 85_490_770,
    "yolov6l6": 140_413_550,
    "yolov6t": 10_629_022,
    "yolov6n_base": 4_667_022,
    "yolov6s_base": 13_180_764,
    "yolov6m_base": 28_353_106,
    "yolov6l_base": 59_638_731,
    "yolov6s_mbla": 11_622_034,
    "yolov6m_mbla": 26_078_946,
    "yolov6l_mbla": 46_299_954,
    "yolov6x_mbla": 78_868_040,
    "yolov6n_qa": 5_052_766,
    "yolov6m_qa": 37_722_806,
    "yolov6n_opt": 4_321_742,
    "yolov6n_hs": 4_734_910,
    "yolov6_lite_s": 557_942,
    "yolov6_lite_m": 791_381,
    "yolov6_lite_l": 1_098_789,
}
PROJECTION = 34  # bins 0..16, twice: parameters there, constants of the decode here; not in Lite


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_official_network_has_the_published_parameter_count(name: str) -> None:
    with torch.device("meta"):
        network = build(official(name, class_count=80))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count + (0 if "lite" in name else PROJECTION) == PARAMETERS[name]


def test_the_table_agrees_with_the_official_configuration_files(shared: Path) -> None:
    documents = json.loads((shared / "goldens/yolov6/configurations.json").read_text())
    resolved = {
        name.rpartition("/")[2]: from_document(document, class_count=80)
        for name, document in documents.items()
    }
    assert resolved == {name: official(name, class_count=80) for name in OFFICIAL_NAMES}
    assert len(resolved) == 31


@pytest.mark.parametrize("name", OFFICIAL_NAMES)
def test_every_network_predicts_one_column_per_cell(name: str) -> None:
    architecture = official(name, class_count=7)
    network = small_network(architecture)
    predictions = network(random_images(128, 64, count=2))
    cells = sum((128 // stride) * (64 // stride) for stride in architecture.strides)
    assert predictions.shape == (2, 4 + 7, cells)
    scores = predictions[:, 4:]
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_multiples_in_place_of_its_own() -> None:
    own = official("yolov6m", class_count=7)
    assert own == official("yolov6m", class_count=7, width_multiple=0.75, depth_multiple=0.6)
    narrow = official("yolov6m", class_count=7, width_multiple=0.25, depth_multiple=0.34)
    assert isinstance(narrow, YOLOv6Architecture)
    assert [stage.channels for stage in narrow.backbone] == [32, 64, 128, 256]
    assert {stage.depth for stage in narrow.backbone} == {1, 2, 3}
    lite = official("yolov6_lite_s", class_count=7, width_multiple=1.1)
    assert lite == official("yolov6_lite_m", class_count=7)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"yolov9x: unknown configuration; known are yolov6n, "):
        official("yolov9x", class_count=80)


def test_a_document_without_a_neck_is_refused() -> None:
    document = {"width_multiple": 1.0, "depth_multiple": 1.0, "backbone": {"type": "EfficientRep"}}
    with pytest.raises(ConfigError, match="'neck' is missing"):
        from_document(document, class_count=80)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": "repvgg3"}, "block: expected one of repvgg, .*; got 'repvgg3'"),
        ({"regression_channels": 64}, "regression_channels: expected one of 4, 68; got 64"),
        ({"class_count": 0}, "widths and depths must be in 1..65536, got 0"),
        ({"downsample": (8,)}, "Architecture.downsample: expected 2 entries, got 1"),
        ({"stage": "csp"}, "every csp stage needs a hidden width"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_impossible_architecture_says_what_is_wrong(
    changes: dict[str, object], message: str
) -> None:
    architecture = official("yolov6n", class_count=80)
    assert isinstance(architecture, YOLOv6Architecture)
    with pytest.raises(DetqError, match=message):
        replace(architecture, **changes)


def test_a_stage_needs_at_least_one_unit() -> None:
    with pytest.raises(DetqError, match="got 0"):
        Stage(channels=8, depth=0)
