from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detq.data.frames import Item
from detq.errors import DataError, MissingLibraryError
from detq.records import Detections
from detq.scale.tracking import NO_TRACK, Tracked, Tracks, between

Box = tuple[float, float, float, float]
RATE = 30.0
IMAGE = np.zeros((1, 1, 3), np.uint8)


def _found(
    boxes: Sequence[Box], scores: Sequence[float] | None = None, classes: Sequence[int] = ()
) -> Detections:
    count = len(boxes)
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray([0.9] * count if scores is None else scores, np.float32),
        np.asarray(classes or [0] * count, np.int64),
    )


def _square(x: float, y: float, side: float = 40) -> Box:
    return x, y, x + side, y + side


def _tracks(confidence: float = 0.25, rate: float = RATE) -> Tracks:
    return Tracks(confidence=confidence, frames_per_s=rate)


def _run(tracks: Tracks, frames: Sequence[Detections], rate: float = RATE) -> list[list[int]]:
    return [tracks.update(found, k / rate)[1] for k, found in enumerate(frames)]


def _crossing(count: int, speed: float = 8) -> list[Detections]:
    """Two that meet in the middle; which of them has the better score changes every frame."""
    frames = []
    for k in range(count):
        one, other = _square(k * speed, 100), _square((count - 1 - k) * speed, 115)
        boxes = [one, other] if k % 2 else [other, one]
        frames.append(_found(boxes, [0.9, 0.8], [0, 1] if k % 2 else [1, 0]))
    return frames


@pytest.mark.parametrize("speed", [1, 8, 25])
def test_two_that_cross_keep_their_numbers(speed: float) -> None:
    frames = _crossing(40, speed)
    seen = [
        dict(zip(found.class_ids.tolist(), ids, strict=True))
        for found, ids in zip(frames, _run(_tracks(), frames), strict=True)
    ]
    assert seen[0] == {0: NO_TRACK, 1: NO_TRACK}
    assert all(ids == seen[1] for ids in seen[1:])
    assert set(seen[1].values()) == {1, 2}


@pytest.mark.parametrize("missed", [1, 5, 25])
def test_object_that_is_missed_for_some_frames_keeps_its_number(missed: int) -> None:
    hidden = range(10, 10 + missed)
    frames = [_found([] if k in hidden else [_square(3 * k, 50)]) for k in range(60)]
    ids = _run(_tracks(), frames)
    assert ids[1:10] == [[1]] * 9
    assert ids[10 : 10 + missed] == [[]] * missed
    assert ids[10 + missed :] == [[1]] * (50 - missed)


def test_object_that_comes_back_late_is_another_one() -> None:
    frames = [_found([_square(5, 5)] if not 10 <= k < 45 else []) for k in range(50)]
    assert {id_ for ids in _run(_tracks(), frames) for id_ in ids} == {NO_TRACK, 1, 2}


@pytest.mark.parametrize("confidence", [0.0, 0.05, 0.25, 0.5, 0.9, 1.0])
def test_scores_that_start_a_track_follow_the_confidence(confidence: float) -> None:
    barely, enough = confidence, confidence + 0.06 * (1 - confidence)
    boxes = [_square(0, 0), _square(200, 0)]
    frames = [_found(boxes, [enough, barely])] * 5
    weak = 2 if barely == enough else NO_TRACK
    assert _run(_tracks(confidence), frames)[-1] == [1, weak]


def test_run_of_the_default_confidence_tracks_things_of_030() -> None:
    assert _run(_tracks(0.25), [_found([_square(0, 0)], [0.3])] * 3)[1:] == [[1], [1]]


def test_weak_detection_continues_a_track() -> None:
    frames = [_found([_square(k, 0)], [0.26 if k > 2 else 0.9]) for k in range(10)]
    assert _run(_tracks(0.25), frames)[1:] == [[1]] * 9


def test_number_stays_when_the_class_changes() -> None:
    frames = [_found([_square(k, 0)], classes=[k % 3]) for k in range(9)]
    assert _run(_tracks(), frames)[1:] == [[1]] * 8


@pytest.mark.parametrize("rate", [0.2, 1.0, 5.0, 60.0], ids=lambda rate: f"{rate:g}/s")
def test_rate_of_the_frames_does_not_matter(rate: float) -> None:
    frames = [_found([] if k in (7, 8) else [_square(10 * k, 0)]) for k in range(20)]
    ids = _run(_tracks(rate=rate), frames, rate)
    assert [one for one in ids[1:] if one] == [[1]] * 17


def test_slow_source_of_an_unknown_rate_has_tracks() -> None:
    tracks = _tracks(rate=30)
    found = [_found([] if k == 5 else [_square(5 * k, 0)]) for k in range(10)]
    ids = [tracks.update(one, 2.0 * k)[1] for k, one in enumerate(found)]
    assert [one for one in ids[1:] if one] == [[1]] * 8


TIMES: dict[str, Callable[[int], float | None]] = {
    "none": lambda k: None,
    "zero": lambda k: 0.0,
    "backwards": lambda k: 100.0 - k,
    "in pairs": lambda k: k // 2 / RATE,
    "not finite": lambda k: float("nan") if k % 2 else float("inf"),
    "sometimes": lambda k: k / RATE if k % 3 else None,
}


@pytest.mark.parametrize("time_s", TIMES.values(), ids=TIMES)
def test_times_that_do_not_go_forward_neither_warn_nor_lose_tracks(
    time_s: Callable[[int], float | None],
) -> None:
    tracks = _tracks()
    ids = [tracks.update(_found([_square(4 * k, 0)]), time_s(k))[1] for k in range(20)]
    assert ids[1:] == [[1]] * 19


def test_frames_without_objects_give_none() -> None:
    tracks = _tracks()
    for k in range(3):
        found, ids = tracks.update(_found([]), k / RATE)
        assert (len(found), ids) == (0, [])
    assert _run(tracks, [_found([_square(0, 0)])] * 3)[1:] == [[1], [1]]
    assert tracks.update(_found([]), 1.0)[1] == []


ODD = [(5.0, 5.0, 5.0, 20.0), (7.0, 7.0, 7.0, 7.0), (9.0, 9.0, 3.0, 3.0)]
UNUSABLE = [(float("nan"), 0.0, 1.0, 1.0), (0.0, 0.0, float("inf"), 1.0)]


def test_boxes_without_area_or_numbers_disturb_no_track() -> None:
    frames = [_found([*UNUSABLE, *ODD, _square(4 * k, 100)]) for k in range(5)]
    ids = _run(_tracks(), frames)
    assert [one[-1] for one in ids[1:]] == [1] * 4
    assert all(one[:2] == [NO_TRACK] * 2 for one in ids)


COORDINATES = st.floats(0, 300, width=32)
ROWS = st.lists(st.tuples(COORDINATES, COORDINATES, st.floats(0.25, 1, width=32)), max_size=8)
SCENES = st.lists(ROWS, max_size=8)


def _frame(rows: Sequence[tuple[float, float, float]]) -> Detections:
    rows = sorted(rows, key=lambda row: -row[2])
    classes = [k % 3 for k in range(len(rows))]
    return _found([_square(x, y) for x, y, _ in rows], [row[2] for row in rows], classes)


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    _tracks()  # importing takes a second, which is no example's


@given(SCENES)
@settings(max_examples=50, deadline=None)
def test_detections_are_those_given_and_numbers_are_their_own(
    scene: list[list[tuple[float, float, float]]],
) -> None:
    tracks = _tracks()
    highest = 0
    for k, rows in enumerate(scene):
        given_ = _frame(rows)
        before = given_.columns()
        found, ids = tracks.update(given_, k / RATE)
        assert found is given_
        assert found.columns() == before
        assert len(ids) == len(found)
        numbers = [id_ for id_ in ids if id_ != NO_TRACK]
        assert len(set(numbers)) == len(numbers)
        new = {id_ for id_ in numbers if id_ > highest}
        assert new == set(range(highest + 1, highest + 1 + len(new)))  # from 1 on, without gaps
        highest += len(new)


@given(st.lists(st.permutations(range(4)), min_size=2, max_size=8))
@settings(max_examples=30, deadline=None)
def test_number_is_that_of_the_box_in_whatever_order_boxes_come(orders: list[list[int]]) -> None:
    """Two of four are weak once they have tracks; the library puts these behind the others."""
    tracks, numbers = _tracks(), []
    for k, order in enumerate(orders):
        boxes = [_square(100 * place + k, 0) for place in order]
        scores = [0.26 if k > 1 and place % 2 else 0.9 for place in order]
        ids = tracks.update(_found(boxes, scores), k / RATE)[1]
        numbers.append(dict(zip(order, ids, strict=True)))
    assert all(each == numbers[1] for each in numbers[1:])
    assert set(numbers[1].values()) == {1, 2, 3, 4}


def test_sources_in_turns_have_the_numbers_they_have_alone() -> None:
    here, there = _crossing(30), [_found([_square(200 - 5 * k, 0)]) for k in range(30)]
    alone = _run(_tracks(), here), _run(_tracks(), there)
    a, b = _tracks(), _tracks()
    mixed: tuple[list[list[int]], list[list[int]]] = ([], [])
    for k in range(30):
        mixed[0].append(a.update(here[k], k / RATE)[1])
        mixed[1].append(b.update(there[k], k / RATE)[1])
    assert mixed == alone
    assert _run(_tracks(), here) == alone[0]  # and the same again in one process


def test_without_the_library_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(
        MissingLibraryError, match=r"^--track: needs trackers.*; pip install 'detq\[track\]'$"
    ):
        _tracks()


def test_module_is_imported_without_the_library() -> None:
    missing = "import sys; sys.modules |= dict.fromkeys(['trackers', 'supervision']);"
    subprocess.run([sys.executable, "-c", f"{missing} import detq.scale.tracking"], check=True)


# Frames between


def _item(index: int, *, timed: bool = True, source: str = "a.mp4") -> Item:
    return Item(f"{source}#{index}", source, index, index / RATE if timed else None)


def _blank(index: int, *, timed: bool = True, source: str = "a.mp4") -> Tracked:
    return _item(index, timed=timed, source=source), IMAGE, None, []


def _looked(
    index: int, found: Detections, ids: list[int], *, timed: bool = True, source: str = "a.mp4"
) -> Tracked:
    return _item(index, timed=timed, source=source), IMAGE, found, ids


def _boxes(frame: Tracked) -> dict[int, list[float]]:
    assert frame[2] is not None
    return dict(zip(frame[3], frame[2].columns()["boxes"], strict=True))


def _of(frames: Sequence[Tracked], name: str) -> list[Tracked]:
    return [one for one in frames if one[0].source == name]


@pytest.mark.parametrize("timed", [True, False], ids=["times", "numbers"])
def test_boxes_between_lie_on_the_line(timed: bool) -> None:
    first = _found([_square(0, 0), _square(100, 0), _square(7, 7)], [0.9, 0.8, 0.7], [3, 4, 5])
    last = _found([_square(140, 0), _square(8, 16), _square(60, 60)], [0.95, 0.6, 0.5], [6, 7, 8])
    frames = [
        _looked(0, first, [1, 2, NO_TRACK], timed=timed),
        *(_blank(k, timed=timed) for k in (1, 2, 3)),
        _looked(4, last, [2, 1, NO_TRACK], timed=timed),
    ]
    out = list(between(iter(frames), 4))
    assert out[0] is frames[0]
    assert out[4] is frames[4]
    for k in (1, 2, 3):
        _, _, found, ids = out[k]
        assert found is not None
        assert ids == [2, 1]  # best score first
        assert found.scores.tolist() == pytest.approx([0.8, 0.6])
        assert found.class_ids.tolist() == [4, 3]
        assert _boxes(out[k])[1] == pytest.approx(_square(2 * k, 4 * k))
        assert _boxes(out[k])[2] == pytest.approx(_square(100 + 10 * k, 0))


def test_times_count_more_than_numbers() -> None:
    middle = replace(_item(1), time_s=3.0)
    frames: list[Tracked] = [
        (replace(_item(0), time_s=0.0), IMAGE, _found([_square(0, 0)]), [1]),
        (middle, IMAGE, None, []),
        (replace(_item(2), time_s=4.0), IMAGE, _found([_square(40, 0)]), [1]),
    ]
    assert _boxes(list(between(iter(frames), 2))[1])[1] == pytest.approx(_square(30, 0))


def test_frames_after_the_last_look_carry_its_tracks() -> None:
    found = _found([_square(0, 0), _square(100, 0)], [0.9, 0.8], [1, 2])
    frames = [_looked(0, found, [NO_TRACK, 4]), _blank(1), _blank(2)]
    for _, _, carried, ids in list(between(iter(frames), 3))[1:]:
        assert carried is not None
        assert ids == [4]
        assert carried.columns() == found.of_classes({2}).columns()


def test_frames_before_the_first_look_show_nothing() -> None:
    frames = [_blank(0), _looked(1, _found([_square(0, 0)]), [1])]
    out = list(between(iter(frames), 3))
    assert _boxes(out[0]) == {}
    assert _boxes(out[1]) == {1: list(_square(0, 0))}


def test_no_frames_give_none() -> None:
    assert list(between(iter(()), 3)) == []


def test_errors_pass_in_their_turn() -> None:
    error = DataError("a.mp4: torn")
    frames: list[Tracked] = [
        _looked(0, _found([_square(0, 0)]), [1]),
        _blank(1),
        (_item(2), error, None, []),
        _looked(3, _found([_square(30, 0)]), [1]),
        (_item(4), error, None, []),
    ]
    out = list(between(iter(frames), 3))
    assert [frame[0].index for frame in out] == [0, 1, 2, 3, 4]
    assert _boxes(out[1])[1] == pytest.approx(_square(10, 0))
    for k in (2, 4):
        assert out[k][1] is error
        assert out[k][2] is None


CORNERS = st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 4)
LOOKS = st.dictionaries(st.integers(1, 6), st.tuples(CORNERS, st.floats(0, 1, width=32)))


@st.composite
def _streams(draw: st.DrawFn) -> tuple[list[Tracked], int]:
    """Frames of two sources in any order, of which any are looked at, and any N."""
    timed = draw(st.booleans())
    counts = {"a.mp4": 0, "b.mp4": 0}
    frames: list[Tracked] = []
    for source in draw(st.lists(st.sampled_from(sorted(counts)), max_size=20)):
        index = counts[source]
        counts[source] += 1
        if draw(st.booleans()):
            frames.append(_blank(index, timed=timed, source=source))
            continue
        rows = sorted(draw(LOOKS).items(), key=lambda row: -row[1][1])
        offset = 0 if source == "a.mp4" else 100  # no number is of both
        ids = [offset + id_ for id_, _ in rows]
        found = _found([box for _, (box, _) in rows], [score for _, (_, score) in rows])
        frames.append(_looked(index, found, ids, timed=timed, source=source))
    return frames, draw(st.integers(1, 6))


@given(_streams())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_frame_comes_once_and_in_order_and_few_are_held(
    stream: tuple[list[Tracked], int],
) -> None:
    frames, every = stream
    held = dict.fromkeys(("a.mp4", "b.mp4"), 0)
    peak = 0

    def source() -> Iterator[Tracked]:
        nonlocal peak
        for frame in frames:
            held[frame[0].source] += 1
            peak = max(peak, *held.values())
            yield frame

    out = []
    for frame in between(source(), every):
        held[frame[0].source] -= 1
        out.append(frame)
    assert peak <= every
    for name in held:
        assert [one[0] for one in _of(out, name)] == [one[0] for one in _of(frames, name)]
    looked = {one[0].id: one for one in frames if one[2] is not None}
    assert all(one is looked[one[0].id] for one in out if one[0].id in looked)


@given(_streams())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_boxes_between_are_convex_combinations_of_those_of_their_own_source(
    stream: tuple[list[Tracked], int],
) -> None:
    frames, _ = stream
    out = list(between(iter(frames), len(frames) + 1))
    for name in ("a.mp4", "b.mp4"):
        own = _of(out, name)
        looks = [k for k, one in enumerate(_of(frames, name)) if one[2] is not None]
        for start, end in pairwise(looks):
            first, last = _boxes(own[start]), _boxes(own[end])
            for frame in own[start + 1 : end]:
                boxes = _boxes(frame)
                assert set(boxes) == set(first) & set(last)
                for id_, box in boxes.items():
                    corners = np.array([first[id_], box, last[id_]])
                    low, high = corners[[0, 2]].min(axis=0), corners[[0, 2]].max(axis=0)
                    assert (low <= corners[1]).all()
                    assert (corners[1] <= high).all()
                found = frame[2]
                assert found is not None
                assert (np.diff(found.scores) <= 0).all()
        for frame in own[looks[-1] + 1 :] if looks else own:
            assert _boxes(frame) == (_boxes(own[looks[-1]]) if looks else {})


def test_tracks_and_frames_between_together_follow_an_object() -> None:
    tracks, every = _tracks(rate=RATE / 5), 5

    def frames() -> Iterator[Tracked]:
        for index in range(31):
            item = _item(index)
            if index % every:
                yield _blank(index)
            else:
                found = _found([_square(2 * index, 0)])
                yield item, IMAGE, *tracks.update(found, item.time_s)

    for item, _, found, ids in list(between(frames(), every))[every:]:
        assert found is not None
        assert ids == [1]
        assert found.boxes_xyxy_px[0].tolist() == pytest.approx(_square(2 * item.index, 0))
