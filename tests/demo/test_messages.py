from __future__ import annotations

import json
import struct
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import jpeg

from detq import Detections
from detq.demo.limits import FRAME_BYTES
from detq.demo.messages import (
    RefusedError,
    Settings,
    Upload,
    decode,
    read_settings,
    read_upload,
    result_text,
)

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def with_size(data: bytes, width: int, height: int) -> bytes:
    """The same JPEG with another size in its header."""
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def test_baseline_jpeg_is_decoded() -> None:
    smooth = cv2.GaussianBlur(PICTURE, (0, 0), 5)
    image = decode(jpeg(smooth, cv2.IMWRITE_JPEG_QUALITY, 95))
    assert image.shape == smooth.shape
    assert np.abs(image.astype(int) - smooth).mean() < 3


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(b"", "not a JPEG", id="empty"),
        pytest.param(b"<svg/>", "not a JPEG", id="text"),
        pytest.param(cv2.imencode(".png", PICTURE)[1].tobytes(), "not a JPEG", id="png"),
        pytest.param(cv2.imencode(".webp", PICTURE)[1].tobytes(), "not a JPEG", id="webp"),
        pytest.param(jpeg(PICTURE)[:200], "JPEG", id="header cut off"),
        pytest.param(jpeg(PICTURE)[:-400], "damaged", id="pixels cut off"),
        pytest.param(with_size(jpeg(PICTURE), 65000, 65000), "at most", id="bomb"),
        pytest.param(with_size(jpeg(PICTURE), 60000, 16), "at most", id="too wide"),
        pytest.param(
            jpeg(PICTURE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "progressive", id="progressive"
        ),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        decode(data)


@given(st.binary(max_size=64), st.integers(0, 400), st.binary(max_size=16))
def test_damage_of_any_kind_is_refused_or_decoded(head: bytes, at: int, inside: bytes) -> None:
    whole = jpeg(PICTURE)
    for data in (head, whole[:at] + inside + whole[at + len(inside) :]):
        try:
            image = decode(data)
        except RefusedError:
            continue
        assert image.dtype == np.uint8
        assert image.ndim == 3


GOOD: dict[str, Any] = {"confidence": 0.5, "iou": 0.4, "model": 1}


def test_settings_are_read() -> None:
    assert read_settings(json.dumps(GOOD), models=2) == Settings(**GOOD)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "settings"),
        ("null", "settings"),
        (json.dumps({**GOOD, "confidence": 2}), "confidence"),
        (json.dumps({**GOOD, "confidence": "0.5"}), "confidence"),
        (json.dumps(GOOD).replace("0.4", "NaN"), "."),
        (json.dumps({**GOOD, "model": 2}), "model 2: there are 2"),
        (json.dumps({**GOOD, "model": -1}), "model"),
        (json.dumps({**GOOD, "path": "/etc/passwd"}), "path"),
        (json.dumps({"model": 0}), "confidence"),
        ("9" * 5000, "5000 characters"),
        ("[" * 4000, "JSON"),
    ],
)
def test_other_settings_are_refused(text: str, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        read_settings(text, models=2)


@given(st.text(max_size=200))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        read_settings(text, models=2)


@pytest.mark.parametrize("size", [0, 4, FRAME_BYTES + 1])
def test_frame_of_a_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(RefusedError, match=f"{size} bytes"):
        read_upload(bytes(size))


def test_frame_keeps_its_number() -> None:
    assert read_upload(struct.pack(">I", 2**32 - 1) + b"x") == Upload(2**32 - 1, b"x")


def test_result_is_json_in_pixels() -> None:
    found = Detections(
        np.array([[1, 2, 3.25, 4]], np.float32), np.array([0.5], np.float32), np.array([7])
    )
    text = result_text(Upload(3, b""), Settings(**GOOD), found, [4], size_wh=[64, 48])
    assert json.loads(text) == {
        "type": "result",
        "frame": 3,
        "model": 1,
        "size_wh": [64, 48],
        "boxes": [[1.0, 2.0, 3.2, 4.0, 0.5, 7]],
        "track_ids": [4],
    }
