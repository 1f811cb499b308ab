from __future__ import annotations

from typing import get_args

import pytest

from detq.cli.arguments import Preset
from detq.data.letterbox import Preprocess
from detq.evaluation.protocol import PROTOCOLS
from detq.records import ModelSpec


def _spec(name: str, size_hw: tuple[int, int]) -> ModelSpec:
    return ModelSpec(name, "yolov6", ("thing",), (8, 16, 32, 64), size_hw)


@pytest.mark.parametrize(
    ("name", "size_hw", "shrink"),
    [
        ("yolov6n", (640, 640), 4),
        ("yolov6s", (640, 640), 6),
        ("yolov6s_mbla", (640, 640), 7),
        ("yolov6s", (640, 384), 0),
        ("yolov6s", (320, 320), 0),
        ("yolov6s6", (1280, 1280), 8),
        ("yolov6s6", (640, 640), 0),
        ("mine", (640, 640), 0),
    ],
)
def test_only_the_official_protocol_shrinks_official_models_at_their_own_size(
    name: str, size_hw: tuple[int, int], shrink: int
) -> None:
    spec = _spec(name, size_hw)
    assert PROTOCOLS["yolov6"].preprocess(spec) == Preprocess(size_hw, shrink)
    assert PROTOCOLS["coco"].preprocess(spec) == Preprocess(size_hw, 0)


def test_only_yolov6_leaves_the_objects_their_numbers() -> None:
    assert {name for name, protocol in PROTOCOLS.items() if not protocol.renumbers} == {"yolov6"}
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())


def test_command_line_offers_every_protocol() -> None:
    choices, _ = get_args(Preset)
    names, _ = get_args(choices)
    assert get_args(names) == tuple(PROTOCOLS)
