"""Several sources, tracks and every N-th picture, with the real model on pictures that move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browser import until
from scenes import MODEL, Image, Known, overlap, write_clip

import detq
from detq import Clip, DetqError, ImageBGR, Newest, open_source
from detq.data.frames import read_frames
from detq.data.video import frame_rate
from detq.demo.contenders import Contender
from detq.demo.recording import every_frame
from detq.demo.runner import Runner, Thresholds
from detq.demo.sight import Following, Result, Sight
from detq.demo.stage import Stage
from detq.demo.view import View

FRAMES, STEP_PX = 24, 3
THRESHOLDS = Thresholds(0.25, 0.45)


@pytest.fixture(scope="module")
def contender() -> Contender:
    return Contender(MODEL)


@pytest.fixture(scope="module")
def moving(known: Known, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The known scene on its way to the right, all of whose digits stay in the picture."""
    images = [np.roll(known.image, number * STEP_PX, axis=1) for number in range(FRAMES)]
    return write_clip(tmp_path_factory.mktemp("moving") / "moving.avi", images)


def seen(contender: Contender, path: Path, following: Following) -> tuple[list[Result], int]:
    """What is shown of every picture of a file, and how many were looked at."""
    clip, looks = Clip(str(path), False), 0
    sight = Sight(clip, following, THRESHOLDS.confidence)

    def look(image: ImageBGR) -> detq.Frame:
        nonlocal looks
        looks += 1
        (frame,) = detq.detect_stream(contender.alone, [image])
        return frame

    results = [
        sight.see(item.index, item.time_s or 0, image, look)
        for item, image in clip.every_frame(print)
    ]
    return results, looks


def numbers(result: Result, known: Known, number: int) -> dict[int, int]:
    """The track of each known object, by its place in the picture ``number`` of the video."""
    found = result.frame.detections
    size = np.array([640, 480, 640, 480])
    tracks = {}
    for index, (_, box) in enumerate(known.truth):
        place = np.array(box) * size + [number * STEP_PX, 0, number * STEP_PX, 0]
        for row, id_ in enumerate(result.track_ids):
            if overlap(place.tolist(), found.boxes_xyxy_px[row].tolist()) > 0.6:
                tracks[index] = id_
    return tracks


@pytest.mark.parametrize("every", [1, 3])
def test_objects_that_move_keep_their_numbers(
    contender: Contender, moving: Path, known: Known, every: int
) -> None:
    results, looks = seen(contender, moving, Following(every, track=True))
    assert looks == -(-FRAMES // every)
    looked_at = range(2 * every, FRAMES, every)
    tracks = [numbers(results[number], known, number) for number in looked_at]
    first = tracks[0]
    assert sorted(first) == list(range(len(known.truth)))
    assert len(set(first.values())) == len(known.truth)
    assert min(first.values()) > 0
    assert all(each == first for each in tracks)


@pytest.mark.parametrize("track", [False, True])
def test_pictures_between_show_the_last_that_was_looked_at(
    contender: Contender, moving: Path, known: Known, track: bool
) -> None:
    results, _ = seen(contender, moving, Following(4, track))
    for number, result in enumerate(results):
        last = results[number // 4 * 4]
        boxes, ids = boxes_and_ids(last)
        if number % 4:
            boxes = [box for box, id_ in zip(boxes, ids, strict=True) if id_ > 0 or not track]
            assert (result.frame.image != last.frame.image).any()
        assert result.frame.detections.boxes_xyxy_px.tolist() == boxes
    assert len(results[-1].frame.detections) == len(known.truth)


def boxes_and_ids(result: Result) -> tuple[list[list[float]], list[int]]:
    boxes = result.frame.detections.boxes_xyxy_px.tolist()
    return boxes, list(result.track_ids) or [-1] * len(boxes)


def test_every_nth_counts_pictures_that_were_left_out(contender: Contender, known: Known) -> None:
    """A model that is too slow to see them all looks at no more than every N-th that came."""
    sight, looked = Sight(Clip("a.avi", False), Following(5), 0.25), []

    def look(image: ImageBGR) -> detq.Frame:
        looked.append(index)
        return detq.Frame(0, image, none, 0, 0, 0, 0, 0)

    none = detq.Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, int))
    for index in (0, 1, 4, 7, 8, 9, 10, 21, 24, 25):
        assert sight.see(index, 0.0, known.image, look).frame.index == index
    assert looked == [0, 7, 10, 21, 25]


def test_boxes_of_a_recording_lie_between_with_tracks(
    contender: Contender, moving: Path, known: Known
) -> None:
    """Drawn on pictures that were not looked at: where the object is, not where it was."""
    pictures = list(
        every_frame(contender, Clip(str(moving), False), THRESHOLDS, Following(8, track=True))
    )
    assert len(pictures) == FRAMES
    upright = [line_of_the_first_digit(picture, known) for picture in pictures[8:17]]
    assert upright == sorted(upright)
    assert abs(upright[4] - (upright[0] + upright[8]) / 2) <= 2
    assert upright[8] - upright[0] >= 6 * STEP_PX


def line_of_the_first_digit(picture: Image, known: Known) -> int:
    """Column of the left edge of the first known box, somewhere near its place."""
    name, (x1, y1, x2, y2) = known.truth[0]
    top = int(np.argmax(picture[5:, 300].min(axis=1) > 60)) + 5
    rows = slice(top + round((y1 * 0.7 + y2 * 0.3) * 480), top + round((y1 * 0.3 + y2 * 0.7) * 480))
    columns = slice(max(round(x1 * 640) - 10, 0), round((x1 + x2) / 2 * 640) + FRAMES * STEP_PX)
    part = picture[rows, columns].astype(int)
    near = np.abs(part - detq.class_color(int(name))).max(axis=2) < 60
    return int(np.flatnonzero(near.mean(axis=0) > 0.7)[0])


def test_source_that_fails_is_a_notice_and_the_others_go_on(
    contender: Contender, moving: Path
) -> None:
    view = View(1, THRESHOLDS)
    sources = [open_source(str(moving)), open_source("63")]
    with Stage([contender], sources, view, Following()) as stage:
        until(lambda: stage.has_picture and "camera 63" in stage._newest.errors, "both to settle")
        stage.follow(view)
        before = stage.state
        until(lambda: stage.state != before, "a newer picture")
        stage.follow(view)


def test_show_ends_when_all_sources_have_failed(contender: Contender) -> None:
    view = View(1, THRESHOLDS)
    with Stage([contender], [open_source("63"), open_source("62")], view, Following()) as stage:
        until(lambda: stage.has_ended, "the end")
        with pytest.raises(DetqError, match="camera 63: cannot be opened"):
            stage.follow(view)


def test_runner_has_a_result_of_each_source(contender: Contender, moving: Path) -> None:
    paths = [str(moving)] * 3
    newest = Newest([open_source(path, repeats=False) for path in paths])
    runner = Runner(
        contender, newest, beside=False, thresholds=THRESHOLDS, following=Following(2, track=True)
    )
    until(lambda: runner.has_ended, "the end of all three")
    newest.close()
    assert runner.error is None
    assert list(runner.results) and set(runner.results) == {
        "moving.avi",
        "moving.avi (2)",
        "moving.avi (3)",
    }
    assert frame_rate(moving) == 25
    assert all(result.frame.index == FRAMES - 1 for result in runner.results.values())
    assert len(list(read_frames(moving))) == FRAMES
