from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from detq.data.frames import read_frames
from detq.data.images import write_image
from detq.data.video import frame_rate
from detq.errors import DataError

GREYS = (30, 110, 200)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Three grey frames of 64 x 48."""
    path = tmp_path / "greys.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for grey in GREYS:
        writer.write(np.full((48, 64, 3), grey, np.uint8))
    writer.release()
    return path


def test_every_frame_in_order(video: Path) -> None:
    frames = list(read_frames(video))
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    np.testing.assert_allclose([frame.mean() for frame in frames], GREYS, atol=3)


def test_frames_are_not_one_buffer(video: Path) -> None:
    first, second, _ = read_frames(video)
    assert abs(float(first.mean()) - float(second.mean())) > 50


@pytest.mark.parametrize("name", [b"a:1.avi", b"http:b.avi", b"n\xff.avi"])
def test_names_that_opencv_takes_for_something_else(
    video: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    """An address for FFmpeg; and no Unicode, which ended the process."""
    monkeypatch.chdir(video.parent)
    path = video.rename(Path(os.fsdecode(name)))
    assert len(list(read_frames(path))) == len(GREYS)
    assert frame_rate(path) == 10


def test_folder_is_its_images_in_order(tmp_path: Path) -> None:
    for index, grey in enumerate(GREYS):
        write_image(tmp_path / f"{index}.png", np.full((8, 8, 3), grey, np.uint8))
    assert [int(frame.mean()) for frame in read_frames(tmp_path)] == list(GREYS)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.mp4", None, "no such image or folder"),
        ("broken.mp4", b"not a video", "no frames"),
        ("notes.doc", b"text", "not an image or another source"),
        ("missing", None, "no such image or folder"),
    ],
)
def test_what_is_no_source_is_an_error_at_once(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_frames(tmp_path / name)


def test_frame_rate_is_what_the_video_states(video: Path, tmp_path: Path) -> None:
    assert frame_rate(video) == 10
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    for other in (broken, tmp_path, tmp_path / "missing.mp4", tmp_path / "picture.png"):
        assert frame_rate(other) is None
