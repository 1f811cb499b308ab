from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import PATIENCE_S, until
from command_line import COMMAND, Command
from scenes import MODEL, Known, write_clip
from test_window import boxes_drawn, heading_height

from detq import write_image
from detq.data.frames import read_frames
from detq.data.video import frame_rate
from detq.demo.overlay import panel_size
from detq.demo.recording import record


@pytest.mark.parametrize("name", ["out.avi", "out.mp4"])
def test_every_picture_of_a_file_is_recorded_with_its_boxes(
    detq: Command, clip: Path, known: Known, tmp_path: Path, name: str
) -> None:
    done = detq("demo", MODEL, "--source", clip, "--save", name)
    assert done.status == 0, done.err
    assert f"50 pictures in {name}" in done.err
    frames = list(read_frames(tmp_path / name))
    assert len(frames) == 50
    assert frame_rate(tmp_path / name) == frame_rate(clip)
    for frame in (frames[0], frames[-1]):
        top = heading_height(frame)
        assert boxes_drawn(frame, known, 0, top, (640, 480)) == len(known.truth)
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_two_models_are_recorded_side_by_side(
    detq: Command, int8_model: Path, clip: Path, known: Known, tmp_path: Path
) -> None:
    done = detq("demo", int8_model, "--compare", MODEL, "--source", clip, "--save", "out.avi")
    assert done.status == 0, done.err
    last = list(read_frames(tmp_path / "out.avi"))[-1]
    top = heading_height(last)
    for left in (0, 640):
        assert boxes_drawn(last, known, left, top, (640, 480)) == len(known.truth)


def test_a_clip_that_is_over_at_once_is_recorded_all_the_same(
    detq: Command, known: Known, tmp_path: Path
) -> None:
    """It ends before the models have looked at it, as longer ones do on a slow machine."""
    clip = write_clip(tmp_path / "one.avi", [known.image])
    done = detq("demo", MODEL, "--compare", MODEL, "--source", clip, "--save", "out.avi")
    assert done.status == 0, done.err
    last = list(read_frames(tmp_path / "out.avi"))[-1]
    assert boxes_drawn(last, known, 640, heading_height(last), (640, 480)) == len(known.truth)


def test_several_sources_are_recorded_in_a_grid(
    detq: Command, clip: Path, known: Known, tmp_path: Path
) -> None:
    """The camera that is not there says so in its own panel."""
    sources = ("--source", clip, "--source", "63", "--source", clip)
    done = detq("demo", MODEL, *sources, "--save", "out.avi", "--track", "--every", "3")
    assert done.status == 0, done.err
    frames = list(read_frames(tmp_path / "out.avi"))
    last = frames[-1]
    assert last.shape[0] > last.shape[1] * 0.75
    width, height = panel_size((480, 640), 2, 2)
    assert last.shape[1] == 2 * width
    panel_height = last.shape[0] // 2
    top = int(np.argmax(last[5:, width // 2].min(axis=1) > 60)) + 5
    for left, above in ((0, top), (0, panel_height + top)):
        assert boxes_drawn(last, known, left, above, (width, height)) > len(known.truth) // 2
    assert boxes_drawn(last, known, width, top, (width, height)) == 0


def test_pictures_of_other_shapes_are_recorded_too(
    detq: Command, known: Known, tmp_path: Path
) -> None:
    """OpenCV left those out without a word that are not as large as the first."""
    folder = tmp_path / "pictures"
    write_image(folder / "1.png", known.image)
    write_image(folder / "2.png", np.full((640, 480, 3), 250, np.uint8))
    done = detq("demo", MODEL, "--source", folder, "--save", "out.avi")
    assert done.status == 0, done.err
    frames = list(read_frames(tmp_path / "out.avi"))
    assert len(frames) == 120
    middle = frames[-1][200:300, 280:360]
    assert middle.mean() > 240


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--save", "out.gif"), "unknown kind of video"),
        (("--save", "nowhere/out.mp4"), "there is no folder nowhere"),
        (("--save", "out.mp4", "--web"), "--save: records"),
        (("--save", "out.mp4", "--port", "80"), "--port: only with --web"),
        (("--save", "out.mp4", "--source", "63", "--source", "62"), "camera 63: cannot be opened"),
        (("--web", "--every", "2"), "--every: "),
        (("--save", "out.mp4", "--source", "63"), "camera 63: cannot be opened"),
        (("--save", "out.mp4", "--source", "none.mp4"), "none.mp4: no such image or folder"),
        (("--save", "out.mp4", "--compare", "nothing.pt"), "nothing.pt"),
    ],
)
def test_what_cannot_be_recorded_is_one_line_and_no_file(
    detq: Command, clip: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    source = () if {"--source", "--web"} & {*options} else ("--source", clip)
    done = detq("demo", MODEL, *source, *options)
    assert done.failed_well, done
    assert said in done.errors[0]
    assert list(tmp_path.iterdir()) == []


def test_interrupt_keeps_what_was_recorded(known: Known, int8_model: Path, tmp_path: Path) -> None:
    slow = write_clip(tmp_path / "slow.avi", [known.image] * 90, frames_per_s=1)
    with subprocess.Popen(
        (*COMMAND, "demo", MODEL, "--compare", int8_model, "--source", slow, "--save", "out.avi"),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            partial = tmp_path / ".out.partial.avi"
            until(lambda: partial.exists() and partial.stat().st_size > 1e6, "the recording")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert {path.name for path in tmp_path.iterdir()} == {"out.avi", "slow.avi"}
    assert list(read_frames(tmp_path / "out.avi"))


def test_failed_recording_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    path.write_bytes(b"old")

    def pictures() -> object:
        yield np.zeros((48, 64, 3), np.uint8)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        record(path, pictures(), 25)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_picture_is_kept_under_a_name_of_its_own(tmp_path: Path) -> None:
    from detq.demo.window import keep

    picture = np.full((48, 64, 3), 77, np.uint8)
    kept = {keep(picture, tmp_path / "new folder") for _ in range(3)}
    assert len(kept) == 3
    for path in kept:
        read = cv2.imread(str(path))
        assert read is not None
        assert (read == picture).all()
